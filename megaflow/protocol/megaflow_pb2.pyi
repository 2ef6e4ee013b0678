from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CodePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODE_POLICY_UNSPECIFIED: _ClassVar[CodePolicy]
    CODE_POLICY_REGISTERED: _ClassVar[CodePolicy]
    CODE_POLICY_IMPORT: _ClassVar[CodePolicy]
    CODE_POLICY_EMBEDDED: _ClassVar[CodePolicy]
CODE_POLICY_UNSPECIFIED: CodePolicy
CODE_POLICY_REGISTERED: CodePolicy
CODE_POLICY_IMPORT: CodePolicy
CODE_POLICY_EMBEDDED: CodePolicy

class ListPoolsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPoolsResponse(_message.Message):
    __slots__ = ("pools",)
    POOLS_FIELD_NUMBER: _ClassVar[int]
    pools: _containers.RepeatedCompositeFieldContainer[PoolStatus]
    def __init__(self, pools: _Optional[_Iterable[_Union[PoolStatus, _Mapping]]] = ...) -> None: ...

class PreparePoolRequest(_message.Message):
    __slots__ = ("template", "image", "count")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    template: str
    image: str
    count: int
    def __init__(self, template: _Optional[str] = ..., image: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class PrepareEnvironmentRequest(_message.Message):
    __slots__ = ("environment", "count")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    environment: EnvironmentSpec
    count: int
    def __init__(self, environment: _Optional[_Union[EnvironmentSpec, _Mapping]] = ..., count: _Optional[int] = ...) -> None: ...

class PoolStatus(_message.Message):
    __slots__ = ("template", "image", "backend", "mode", "ready", "leased", "creating", "resetting", "ending", "waiting", "target", "max", "created", "reused", "quarantined", "failed", "breaker", "fault", "create_s", "reset_s", "run")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    CREATING_FIELD_NUMBER: _ClassVar[int]
    RESETTING_FIELD_NUMBER: _ClassVar[int]
    ENDING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BREAKER_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    CREATE_S_FIELD_NUMBER: _ClassVar[int]
    RESET_S_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    template: str
    image: str
    backend: str
    mode: str
    ready: int
    leased: int
    creating: int
    resetting: int
    ending: int
    waiting: int
    target: int
    max: int
    created: int
    reused: int
    quarantined: int
    failed: int
    breaker: str
    fault: str
    create_s: float
    reset_s: float
    run: str
    def __init__(self, template: _Optional[str] = ..., image: _Optional[str] = ..., backend: _Optional[str] = ..., mode: _Optional[str] = ..., ready: _Optional[int] = ..., leased: _Optional[int] = ..., creating: _Optional[int] = ..., resetting: _Optional[int] = ..., ending: _Optional[int] = ..., waiting: _Optional[int] = ..., target: _Optional[int] = ..., max: _Optional[int] = ..., created: _Optional[int] = ..., reused: _Optional[int] = ..., quarantined: _Optional[int] = ..., failed: _Optional[int] = ..., breaker: _Optional[str] = ..., fault: _Optional[str] = ..., create_s: _Optional[float] = ..., reset_s: _Optional[float] = ..., run: _Optional[str] = ...) -> None: ...

class KeepSnapshotRequest(_message.Message):
    __slots__ = ("session_id", "shard_id", "state", "observation", "seconds")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    shard_id: str
    state: bytes
    observation: bytes
    seconds: float
    def __init__(self, session_id: _Optional[str] = ..., shard_id: _Optional[str] = ..., state: _Optional[bytes] = ..., observation: _Optional[bytes] = ..., seconds: _Optional[float] = ...) -> None: ...

class KeepSnapshotResponse(_message.Message):
    __slots__ = ("snapshot_id",)
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    def __init__(self, snapshot_id: _Optional[str] = ...) -> None: ...

class RestoreSnapshotRequest(_message.Message):
    __slots__ = ("session_id", "shard_id", "snapshot_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    shard_id: str
    snapshot_id: str
    def __init__(self, session_id: _Optional[str] = ..., shard_id: _Optional[str] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class RestoreSnapshotResponse(_message.Message):
    __slots__ = ("state", "observation")
    STATE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    observation: bytes
    def __init__(self, state: _Optional[bytes] = ..., observation: _Optional[bytes] = ...) -> None: ...

class DropSnapshotRequest(_message.Message):
    __slots__ = ("snapshot_id",)
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: str
    def __init__(self, snapshot_id: _Optional[str] = ...) -> None: ...

class DropSnapshotResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSandboxesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSandboxesResponse(_message.Message):
    __slots__ = ("sandboxes",)
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    sandboxes: _containers.RepeatedCompositeFieldContainer[SandboxListing]
    def __init__(self, sandboxes: _Optional[_Iterable[_Union[SandboxListing, _Mapping]]] = ...) -> None: ...

class SandboxListing(_message.Message):
    __slots__ = ("id", "kind", "owner", "environment", "sandbox", "template", "image", "task", "left_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LEFT_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    owner: str
    environment: str
    sandbox: str
    template: str
    image: str
    task: str
    left_s: float
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., owner: _Optional[str] = ..., environment: _Optional[str] = ..., sandbox: _Optional[str] = ..., template: _Optional[str] = ..., image: _Optional[str] = ..., task: _Optional[str] = ..., left_s: _Optional[float] = ...) -> None: ...

class KeepSandboxesRequest(_message.Message):
    __slots__ = ("session_id", "seconds", "lost_only")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    LOST_ONLY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    seconds: float
    lost_only: bool
    def __init__(self, session_id: _Optional[str] = ..., seconds: _Optional[float] = ..., lost_only: bool = ...) -> None: ...

class KeepSandboxesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DropSandboxesRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DropSandboxesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Inside(_message.Message):
    __slots__ = ("id", "sandbox", "user", "directory")
    ID_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    id: str
    sandbox: str
    user: str
    directory: str
    def __init__(self, id: _Optional[str] = ..., sandbox: _Optional[str] = ..., user: _Optional[str] = ..., directory: _Optional[str] = ...) -> None: ...

class RunInsideRequest(_message.Message):
    __slots__ = ("inside", "command", "timeout_s", "output_limit", "environ")
    class EnvironEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ENVIRON_FIELD_NUMBER: _ClassVar[int]
    inside: Inside
    command: str
    timeout_s: float
    output_limit: int
    environ: _containers.ScalarMap[str, str]
    def __init__(self, inside: _Optional[_Union[Inside, _Mapping]] = ..., command: _Optional[str] = ..., timeout_s: _Optional[float] = ..., output_limit: _Optional[int] = ..., environ: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RunInsideResponse(_message.Message):
    __slots__ = ("exit_code", "stdout", "stderr", "timed_out")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    TIMED_OUT_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    stdout: CutOutput
    stderr: CutOutput
    timed_out: bool
    def __init__(self, exit_code: _Optional[int] = ..., stdout: _Optional[_Union[CutOutput, _Mapping]] = ..., stderr: _Optional[_Union[CutOutput, _Mapping]] = ..., timed_out: bool = ...) -> None: ...

class CutOutput(_message.Message):
    __slots__ = ("kept", "omitted", "cut")
    KEPT_FIELD_NUMBER: _ClassVar[int]
    OMITTED_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    kept: bytes
    omitted: int
    cut: int
    def __init__(self, kept: _Optional[bytes] = ..., omitted: _Optional[int] = ..., cut: _Optional[int] = ...) -> None: ...

class TerminalInput(_message.Message):
    __slots__ = ("begin", "typed", "size")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    TYPED_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    begin: TerminalBegin
    typed: bytes
    size: TerminalSize
    def __init__(self, begin: _Optional[_Union[TerminalBegin, _Mapping]] = ..., typed: _Optional[bytes] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ...) -> None: ...

class TerminalBegin(_message.Message):
    __slots__ = ("inside", "command", "size", "kind")
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    inside: Inside
    command: str
    size: TerminalSize
    kind: str
    def __init__(self, inside: _Optional[_Union[Inside, _Mapping]] = ..., command: _Optional[str] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ..., kind: _Optional[str] = ...) -> None: ...

class TerminalSize(_message.Message):
    __slots__ = ("rows", "columns")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ...) -> None: ...

class TerminalOutput(_message.Message):
    __slots__ = ("sandbox", "shown", "end")
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    sandbox: str
    shown: bytes
    end: TerminalEnd
    def __init__(self, sandbox: _Optional[str] = ..., shown: _Optional[bytes] = ..., end: _Optional[_Union[TerminalEnd, _Mapping]] = ...) -> None: ...

class TerminalEnd(_message.Message):
    __slots__ = ("exit_code", "signal")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    signal: int
    def __init__(self, exit_code: _Optional[int] = ..., signal: _Optional[int] = ...) -> None: ...

class PutInsideRequest(_message.Message):
    __slots__ = ("inside", "tar")
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    TAR_FIELD_NUMBER: _ClassVar[int]
    inside: Inside
    tar: bytes
    def __init__(self, inside: _Optional[_Union[Inside, _Mapping]] = ..., tar: _Optional[bytes] = ...) -> None: ...

class PutInsideResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListenInsideRequest(_message.Message):
    __slots__ = ("inside", "port")
    INSIDE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    inside: Inside
    port: int
    def __init__(self, inside: _Optional[_Union[Inside, _Mapping]] = ..., port: _Optional[int] = ...) -> None: ...

class ListenInsideEvent(_message.Message):
    __slots__ = ("port", "connection")
    PORT_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    port: int
    connection: str
    def __init__(self, port: _Optional[int] = ..., connection: _Optional[str] = ...) -> None: ...

class ConnectionInput(_message.Message):
    __slots__ = ("connection", "data")
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    connection: str
    data: bytes
    def __init__(self, connection: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ConnectionOutput(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("protocol_version", "features", "megaflow_version", "gymnasium_version")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MEGAFLOW_VERSION_FIELD_NUMBER: _ClassVar[int]
    GYMNASIUM_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    features: _containers.RepeatedScalarFieldContainer[str]
    megaflow_version: str
    gymnasium_version: str
    def __init__(self, protocol_version: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., megaflow_version: _Optional[str] = ..., gymnasium_version: _Optional[str] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("protocol_version", "features", "megaflow_version", "gymnasium_version", "server_id", "workers", "code_policy", "lease_s")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MEGAFLOW_VERSION_FIELD_NUMBER: _ClassVar[int]
    GYMNASIUM_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    CODE_POLICY_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    features: _containers.RepeatedScalarFieldContainer[str]
    megaflow_version: str
    gymnasium_version: str
    server_id: str
    workers: int
    code_policy: CodePolicy
    lease_s: float
    def __init__(self, protocol_version: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., megaflow_version: _Optional[str] = ..., gymnasium_version: _Optional[str] = ..., server_id: _Optional[str] = ..., workers: _Optional[int] = ..., code_policy: _Optional[_Union[CodePolicy, str]] = ..., lease_s: _Optional[float] = ...) -> None: ...

class ListEnvironmentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEnvironmentsResponse(_message.Message):
    __slots__ = ("environments",)
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    environments: _containers.RepeatedCompositeFieldContainer[EnvironmentInfo]
    def __init__(self, environments: _Optional[_Iterable[_Union[EnvironmentInfo, _Mapping]]] = ...) -> None: ...

class EnvironmentInfo(_message.Message):
    __slots__ = ("id", "reward_threshold", "max_episode_steps", "nondeterministic", "vector_entry_point", "entry_point")
    ID_FIELD_NUMBER: _ClassVar[int]
    REWARD_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_EPISODE_STEPS_FIELD_NUMBER: _ClassVar[int]
    NONDETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    VECTOR_ENTRY_POINT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_POINT_FIELD_NUMBER: _ClassVar[int]
    id: str
    reward_threshold: float
    max_episode_steps: int
    nondeterministic: bool
    vector_entry_point: bool
    entry_point: str
    def __init__(self, id: _Optional[str] = ..., reward_threshold: _Optional[float] = ..., max_episode_steps: _Optional[int] = ..., nondeterministic: bool = ..., vector_entry_point: bool = ..., entry_point: _Optional[str] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("request_id", "environment", "agent", "model", "client_id", "env_start_timeout_s", "in_place_of", "tenant", "mode", "task", "alone")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ENV_START_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    IN_PLACE_OF_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    environment: EnvironmentSpec
    agent: AgentSpec
    model: ModelSpec
    client_id: str
    env_start_timeout_s: float
    in_place_of: str
    tenant: str
    mode: str
    task: str
    alone: bool
    def __init__(self, request_id: _Optional[str] = ..., environment: _Optional[_Union[EnvironmentSpec, _Mapping]] = ..., agent: _Optional[_Union[AgentSpec, _Mapping]] = ..., model: _Optional[_Union[ModelSpec, _Mapping]] = ..., client_id: _Optional[str] = ..., env_start_timeout_s: _Optional[float] = ..., in_place_of: _Optional[str] = ..., tenant: _Optional[str] = ..., mode: _Optional[str] = ..., task: _Optional[str] = ..., alone: bool = ...) -> None: ...

class Maker(_message.Message):
    __slots__ = ("id", "env_spec", "code", "kwargs", "kwargs_code", "known_as", "sandboxes")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENV_SPEC_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_CODE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_AS_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    id: str
    env_spec: str
    code: str
    kwargs: bytes
    kwargs_code: str
    known_as: str
    sandboxes: _containers.RepeatedCompositeFieldContainer[LentSandbox]
    def __init__(self, id: _Optional[str] = ..., env_spec: _Optional[str] = ..., code: _Optional[str] = ..., kwargs: _Optional[bytes] = ..., kwargs_code: _Optional[str] = ..., known_as: _Optional[str] = ..., sandboxes: _Optional[_Iterable[_Union[LentSandbox, _Mapping]]] = ...) -> None: ...

class LentSandbox(_message.Message):
    __slots__ = ("parameter", "path", "capability")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    parameter: str
    path: str
    capability: bytes
    def __init__(self, parameter: _Optional[str] = ..., path: _Optional[str] = ..., capability: _Optional[bytes] = ...) -> None: ...

class EnvironmentSpec(_message.Message):
    __slots__ = ("makers", "wrappers", "num_envs", "vectorization_mode", "autoreset_mode", "observation_mode", "single_observation_space", "import_paths", "parallel")
    MAKERS_FIELD_NUMBER: _ClassVar[int]
    WRAPPERS_FIELD_NUMBER: _ClassVar[int]
    NUM_ENVS_FIELD_NUMBER: _ClassVar[int]
    VECTORIZATION_MODE_FIELD_NUMBER: _ClassVar[int]
    AUTORESET_MODE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_MODE_FIELD_NUMBER: _ClassVar[int]
    SINGLE_OBSERVATION_SPACE_FIELD_NUMBER: _ClassVar[int]
    IMPORT_PATHS_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_FIELD_NUMBER: _ClassVar[int]
    makers: _containers.RepeatedCompositeFieldContainer[Maker]
    wrappers: _containers.RepeatedCompositeFieldContainer[Maker]
    num_envs: int
    vectorization_mode: str
    autoreset_mode: str
    observation_mode: str
    single_observation_space: bytes
    import_paths: _containers.RepeatedScalarFieldContainer[str]
    parallel: str
    def __init__(self, makers: _Optional[_Iterable[_Union[Maker, _Mapping]]] = ..., wrappers: _Optional[_Iterable[_Union[Maker, _Mapping]]] = ..., num_envs: _Optional[int] = ..., vectorization_mode: _Optional[str] = ..., autoreset_mode: _Optional[str] = ..., observation_mode: _Optional[str] = ..., single_observation_space: _Optional[bytes] = ..., import_paths: _Optional[_Iterable[str]] = ..., parallel: _Optional[str] = ...) -> None: ...

class AgentSpec(_message.Message):
    __slots__ = ("name", "kwargs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kwargs: bytes
    def __init__(self, name: _Optional[str] = ..., kwargs: _Optional[bytes] = ...) -> None: ...

class ModelSpec(_message.Message):
    __slots__ = ("name", "sampling")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    name: str
    sampling: bytes
    def __init__(self, name: _Optional[str] = ..., sampling: _Optional[bytes] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session_id", "shards")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    def __init__(self, session_id: _Optional[str] = ..., shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ("shard_id", "token", "endpoint", "first", "count", "environment")
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    shard_id: str
    token: bytes
    endpoint: Endpoint
    first: int
    count: int
    environment: EnvironmentDescription
    def __init__(self, shard_id: _Optional[str] = ..., token: _Optional[bytes] = ..., endpoint: _Optional[_Union[Endpoint, _Mapping]] = ..., first: _Optional[int] = ..., count: _Optional[int] = ..., environment: _Optional[_Union[EnvironmentDescription, _Mapping]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("unix_path", "nonce", "address", "authority", "server_name", "stream_path")
    UNIX_PATH_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    STREAM_PATH_FIELD_NUMBER: _ClassVar[int]
    unix_path: str
    nonce: str
    address: str
    authority: bytes
    server_name: str
    stream_path: str
    def __init__(self, unix_path: _Optional[str] = ..., nonce: _Optional[str] = ..., address: _Optional[str] = ..., authority: _Optional[bytes] = ..., server_name: _Optional[str] = ..., stream_path: _Optional[str] = ...) -> None: ...

class EnvironmentDescription(_message.Message):
    __slots__ = ("single_observation_space", "single_action_space", "observation_space", "action_space", "metadata", "render_mode", "env_spec", "autoreset_mode", "observation_spaces", "action_spaces")
    SINGLE_OBSERVATION_SPACE_FIELD_NUMBER: _ClassVar[int]
    SINGLE_ACTION_SPACE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_SPACE_FIELD_NUMBER: _ClassVar[int]
    ACTION_SPACE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RENDER_MODE_FIELD_NUMBER: _ClassVar[int]
    ENV_SPEC_FIELD_NUMBER: _ClassVar[int]
    AUTORESET_MODE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_SPACES_FIELD_NUMBER: _ClassVar[int]
    ACTION_SPACES_FIELD_NUMBER: _ClassVar[int]
    single_observation_space: bytes
    single_action_space: bytes
    observation_space: bytes
    action_space: bytes
    metadata: bytes
    render_mode: str
    env_spec: str
    autoreset_mode: str
    observation_spaces: _containers.RepeatedScalarFieldContainer[bytes]
    action_spaces: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, single_observation_space: _Optional[bytes] = ..., single_action_space: _Optional[bytes] = ..., observation_space: _Optional[bytes] = ..., action_space: _Optional[bytes] = ..., metadata: _Optional[bytes] = ..., render_mode: _Optional[str] = ..., env_spec: _Optional[str] = ..., autoreset_mode: _Optional[str] = ..., observation_spaces: _Optional[_Iterable[bytes]] = ..., action_spaces: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReopenShardRequest(_message.Message):
    __slots__ = ("request_id", "session_id", "shard_id", "given_up")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    session_id: str
    shard_id: str
    given_up: str
    def __init__(self, request_id: _Optional[str] = ..., session_id: _Optional[str] = ..., shard_id: _Optional[str] = ..., given_up: _Optional[str] = ...) -> None: ...

class DescribeShardRequest(_message.Message):
    __slots__ = ("session_id", "shard_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    shard_id: str
    def __init__(self, session_id: _Optional[str] = ..., shard_id: _Optional[str] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("alive", "error")
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    alive: bool
    error: Error
    def __init__(self, alive: bool = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class RenewLeasesRequest(_message.Message):
    __slots__ = ("session_ids", "released_ids")
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    RELEASED_IDS_FIELD_NUMBER: _ClassVar[int]
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    released_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_ids: _Optional[_Iterable[str]] = ..., released_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RenewLeasesResponse(_message.Message):
    __slots__ = ("lost",)
    LOST_FIELD_NUMBER: _ClassVar[int]
    lost: _containers.RepeatedCompositeFieldContainer[LostSession]
    def __init__(self, lost: _Optional[_Iterable[_Union[LostSession, _Mapping]]] = ...) -> None: ...

class LostSession(_message.Message):
    __slots__ = ("session_id", "error")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    error: Error
    def __init__(self, session_id: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("peak",)
    PEAK_FIELD_NUMBER: _ClassVar[int]
    peak: Amount
    def __init__(self, peak: _Optional[_Union[Amount, _Mapping]] = ...) -> None: ...

class OpenShardRequest(_message.Message):
    __slots__ = ("shard_id", "token", "first", "environment", "ask_only")
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ASK_ONLY_FIELD_NUMBER: _ClassVar[int]
    shard_id: str
    token: bytes
    first: int
    environment: EnvironmentSpec
    ask_only: bool
    def __init__(self, shard_id: _Optional[str] = ..., token: _Optional[bytes] = ..., first: _Optional[int] = ..., environment: _Optional[_Union[EnvironmentSpec, _Mapping]] = ..., ask_only: bool = ...) -> None: ...

class OpenShardResponse(_message.Message):
    __slots__ = ("environment", "sandboxes")
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    SANDBOXES_FIELD_NUMBER: _ClassVar[int]
    environment: EnvironmentDescription
    sandboxes: _containers.RepeatedCompositeFieldContainer[WantedSandbox]
    def __init__(self, environment: _Optional[_Union[EnvironmentDescription, _Mapping]] = ..., sandboxes: _Optional[_Iterable[_Union[WantedSandbox, _Mapping]]] = ...) -> None: ...

class WantedSandbox(_message.Message):
    __slots__ = ("maker", "parameter", "request")
    MAKER_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    maker: int
    parameter: str
    request: bytes
    def __init__(self, maker: _Optional[int] = ..., parameter: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class CloseShardRequest(_message.Message):
    __slots__ = ("shard_id", "reason")
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    shard_id: str
    reason: str
    def __init__(self, shard_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CloseShardResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("heartbeat_s",)
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    heartbeat_s: float
    def __init__(self, heartbeat_s: _Optional[float] = ...) -> None: ...

class WorkerEvent(_message.Message):
    __slots__ = ("closed_shard_id", "heartbeat")
    CLOSED_SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    closed_shard_id: str
    heartbeat: Heartbeat
    def __init__(self, closed_shard_id: _Optional[str] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClientFrame(_message.Message):
    __slots__ = ("attach", "request", "chunk")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    attach: Attach
    request: Request
    chunk: Chunk
    def __init__(self, attach: _Optional[_Union[Attach, _Mapping]] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("attached", "reply", "chunk", "error")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    attached: Attached
    reply: Reply
    chunk: Chunk
    error: Error
    def __init__(self, attached: _Optional[_Union[Attached, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data", "last")
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    last: bool
    def __init__(self, data: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("shard_id", "token", "protocol_version", "generation", "acknowledged", "slots", "slot_bytes")
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    shard_id: str
    token: bytes
    protocol_version: int
    generation: int
    acknowledged: int
    slots: int
    slot_bytes: int
    def __init__(self, shard_id: _Optional[str] = ..., token: _Optional[bytes] = ..., protocol_version: _Optional[int] = ..., generation: _Optional[int] = ..., acknowledged: _Optional[int] = ..., slots: _Optional[int] = ..., slot_bytes: _Optional[int] = ...) -> None: ...

class Attached(_message.Message):
    __slots__ = ("generation", "received", "window")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    generation: int
    received: int
    window: int
    def __init__(self, generation: _Optional[int] = ..., received: _Optional[int] = ..., window: _Optional[int] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("sequence", "acknowledged", "reset", "step", "call", "set_attr", "close", "snapshot", "restore")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    SET_ATTR_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    acknowledged: int
    reset: Reset
    step: Step
    call: Call
    set_attr: SetAttr
    close: Close
    snapshot: Snapshot
    restore: Restore
    def __init__(self, sequence: _Optional[int] = ..., acknowledged: _Optional[int] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., call: _Optional[_Union[Call, _Mapping]] = ..., set_attr: _Optional[_Union[SetAttr, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., restore: _Optional[_Union[Restore, _Mapping]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Restore(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    def __init__(self, state: _Optional[bytes] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("seed", "options", "mask", "in_parts", "slot")
    SEED_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    IN_PARTS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    seed: bytes
    options: bytes
    mask: bytes
    in_parts: bool
    slot: int
    def __init__(self, seed: _Optional[bytes] = ..., options: _Optional[bytes] = ..., mask: _Optional[bytes] = ..., in_parts: bool = ..., slot: _Optional[int] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("action", "indices", "in_parts", "timeout_s", "end_late", "slot")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    IN_PARTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    END_LATE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    action: bytes
    indices: _containers.RepeatedScalarFieldContainer[int]
    in_parts: bool
    timeout_s: float
    end_late: bool
    slot: int
    def __init__(self, action: _Optional[bytes] = ..., indices: _Optional[_Iterable[int]] = ..., in_parts: bool = ..., timeout_s: _Optional[float] = ..., end_late: bool = ..., slot: _Optional[int] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("name", "args", "kwargs", "lookup", "indices", "wrapper")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    WRAPPER_FIELD_NUMBER: _ClassVar[int]
    name: str
    args: bytes
    kwargs: bytes
    lookup: bool
    indices: _containers.RepeatedScalarFieldContainer[int]
    wrapper: str
    def __init__(self, name: _Optional[str] = ..., args: _Optional[bytes] = ..., kwargs: _Optional[bytes] = ..., lookup: bool = ..., indices: _Optional[_Iterable[int]] = ..., wrapper: _Optional[str] = ...) -> None: ...

class SetAttr(_message.Message):
    __slots__ = ("name", "values", "force", "indices")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: bytes
    force: bool
    indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[bytes] = ..., force: bool = ..., indices: _Optional[_Iterable[int]] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Reply(_message.Message):
    __slots__ = ("sequence", "part", "last", "indices", "transition", "value", "error", "lost", "late")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    TRANSITION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    part: int
    last: bool
    indices: _containers.RepeatedScalarFieldContainer[int]
    transition: Transition
    value: bytes
    error: Error
    lost: Error
    late: Late
    def __init__(self, sequence: _Optional[int] = ..., part: _Optional[int] = ..., last: bool = ..., indices: _Optional[_Iterable[int]] = ..., transition: _Optional[_Union[Transition, _Mapping]] = ..., value: _Optional[bytes] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., lost: _Optional[_Union[Error, _Mapping]] = ..., late: _Optional[_Union[Late, _Mapping]] = ...) -> None: ...

class Late(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Transition(_message.Message):
    __slots__ = ("observation", "reward", "terminated", "truncated", "info")
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    observation: bytes
    reward: bytes
    terminated: bytes
    truncated: bytes
    info: bytes
    def __init__(self, observation: _Optional[bytes] = ..., reward: _Optional[bytes] = ..., terminated: _Optional[bytes] = ..., truncated: _Optional[bytes] = ..., info: _Optional[bytes] = ...) -> None: ...

class Amount(_message.Message):
    __slots__ = ("cpu", "memory")
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    cpu: float
    memory: int
    def __init__(self, cpu: _Optional[float] = ..., memory: _Optional[int] = ...) -> None: ...

class TaskLimits(_message.Message):
    __slots__ = ("schedule_to_start", "start_to_close", "schedule_to_close")
    SCHEDULE_TO_START_FIELD_NUMBER: _ClassVar[int]
    START_TO_CLOSE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_TO_CLOSE_FIELD_NUMBER: _ClassVar[int]
    schedule_to_start: float
    start_to_close: float
    schedule_to_close: float
    def __init__(self, schedule_to_start: _Optional[float] = ..., start_to_close: _Optional[float] = ..., schedule_to_close: _Optional[float] = ...) -> None: ...

class NewTask(_message.Message):
    __slots__ = ("index", "sample", "environment", "env_kwargs", "agent", "agent_kwargs", "models", "group", "priority", "seed", "idempotency_key", "mode", "limits", "requests", "most", "keep", "snapshot", "rescores")
    class ModelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ENV_KWARGS_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_KWARGS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    RESCORES_FIELD_NUMBER: _ClassVar[int]
    index: int
    sample: int
    environment: str
    env_kwargs: str
    agent: str
    agent_kwargs: str
    models: _containers.ScalarMap[str, str]
    group: str
    priority: int
    seed: int
    idempotency_key: str
    mode: str
    limits: TaskLimits
    requests: Amount
    most: Amount
    keep: str
    snapshot: bool
    rescores: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, index: _Optional[int] = ..., sample: _Optional[int] = ..., environment: _Optional[str] = ..., env_kwargs: _Optional[str] = ..., agent: _Optional[str] = ..., agent_kwargs: _Optional[str] = ..., models: _Optional[_Mapping[str, str]] = ..., group: _Optional[str] = ..., priority: _Optional[int] = ..., seed: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., mode: _Optional[str] = ..., limits: _Optional[_Union[TaskLimits, _Mapping]] = ..., requests: _Optional[_Union[Amount, _Mapping]] = ..., most: _Optional[_Union[Amount, _Mapping]] = ..., keep: _Optional[str] = ..., snapshot: bool = ..., rescores: _Optional[_Iterable[str]] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("known", "unknown")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    known: float
    unknown: int
    def __init__(self, known: _Optional[float] = ..., unknown: _Optional[int] = ...) -> None: ...

class JobBudget(_message.Message):
    __slots__ = ("max_cost", "unpriced", "spent")
    MAX_COST_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    max_cost: float
    unpriced: bool
    spent: float
    def __init__(self, max_cost: _Optional[float] = ..., unpriced: bool = ..., spent: _Optional[float] = ...) -> None: ...

class CreateJobRequest(_message.Message):
    __slots__ = ("job_id", "name", "seed", "deadline_s", "tasks", "max_cost", "unpriced")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_FIELD_NUMBER: _ClassVar[int]
    UNPRICED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    seed: int
    deadline_s: float
    tasks: int
    max_cost: float
    unpriced: bool
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., seed: _Optional[int] = ..., deadline_s: _Optional[float] = ..., tasks: _Optional[int] = ..., max_cost: _Optional[float] = ..., unpriced: bool = ...) -> None: ...

class AddTasksRequest(_message.Message):
    __slots__ = ("job_id", "tasks")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    tasks: _containers.RepeatedCompositeFieldContainer[NewTask]
    def __init__(self, job_id: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[NewTask, _Mapping]]] = ...) -> None: ...

class AddTasksResponse(_message.Message):
    __slots__ = ("task_ids",)
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class JobRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("job", "reason")
    JOB_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    job: str
    reason: str
    def __init__(self, job: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class TaskRequest(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("job_id", "name", "submitted", "total", "done", "sealed", "cancelled", "seed", "states", "active", "cost", "max_cost")
    class StatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    name: str
    submitted: float
    total: int
    done: int
    sealed: bool
    cancelled: bool
    seed: int
    states: _containers.ScalarMap[str, int]
    active: _containers.RepeatedCompositeFieldContainer[ActiveTask]
    cost: Cost
    max_cost: float
    def __init__(self, job_id: _Optional[str] = ..., name: _Optional[str] = ..., submitted: _Optional[float] = ..., total: _Optional[int] = ..., done: _Optional[int] = ..., sealed: bool = ..., cancelled: bool = ..., seed: _Optional[int] = ..., states: _Optional[_Mapping[str, int]] = ..., active: _Optional[_Iterable[_Union[ActiveTask, _Mapping]]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., max_cost: _Optional[float] = ...) -> None: ...

class ActiveTask(_message.Message):
    __slots__ = ("task_id", "index", "sample", "state", "seconds")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    index: int
    sample: int
    state: str
    seconds: float
    def __init__(self, task_id: _Optional[str] = ..., index: _Optional[int] = ..., sample: _Optional[int] = ..., state: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class ManifestPart(_message.Message):
    __slots__ = ("data", "parts")
    DATA_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    parts: int
    def __init__(self, data: _Optional[bytes] = ..., parts: _Optional[int] = ...) -> None: ...

class PutManifestRequest(_message.Message):
    __slots__ = ("job", "part", "content")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    job: str
    part: int
    content: ManifestPart
    def __init__(self, job: _Optional[str] = ..., part: _Optional[int] = ..., content: _Optional[_Union[ManifestPart, _Mapping]] = ...) -> None: ...

class PutManifestResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ("job", "part")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    job: str
    part: int
    def __init__(self, job: _Optional[str] = ..., part: _Optional[int] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("most",)
    MOST_FIELD_NUMBER: _ClassVar[int]
    most: int
    def __init__(self, most: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobStatus]
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobStatus, _Mapping]]] = ...) -> None: ...

class WaitResultsRequest(_message.Message):
    __slots__ = ("job", "after", "most", "wait_s")
    JOB_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    job: str
    after: int
    most: int
    wait_s: float
    def __init__(self, job: _Optional[str] = ..., after: _Optional[int] = ..., most: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class WaitResultsResponse(_message.Message):
    __slots__ = ("results", "complete")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    complete: bool
    def __init__(self, results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., complete: bool = ...) -> None: ...

class TaskFailure(_message.Message):
    __slots__ = ("kind", "phase", "reason", "log")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    kind: str
    phase: str
    reason: str
    log: str
    def __init__(self, kind: _Optional[str] = ..., phase: _Optional[str] = ..., reason: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("valid", "reward", "rewards", "failure", "trajectory", "cost")
    class RewardsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALID_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    reward: float
    rewards: _containers.ScalarMap[str, float]
    failure: TaskFailure
    trajectory: str
    cost: Cost
    def __init__(self, valid: bool = ..., reward: _Optional[float] = ..., rewards: _Optional[_Mapping[str, float]] = ..., failure: _Optional[_Union[TaskFailure, _Mapping]] = ..., trajectory: _Optional[str] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task_id", "index", "sample", "group", "state", "done", "seed", "fence", "retries", "outcome", "cost")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    index: int
    sample: int
    group: str
    state: str
    done: int
    seed: int
    fence: int
    retries: int
    outcome: Outcome
    cost: Cost
    def __init__(self, task_id: _Optional[str] = ..., index: _Optional[int] = ..., sample: _Optional[int] = ..., group: _Optional[str] = ..., state: _Optional[str] = ..., done: _Optional[int] = ..., seed: _Optional[int] = ..., fence: _Optional[int] = ..., retries: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...

class TaskStatus(_message.Message):
    __slots__ = ("task_id", "job_id", "state", "reason", "waits_for", "events", "outcome")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    job_id: str
    state: str
    reason: str
    waits_for: _containers.RepeatedScalarFieldContainer[str]
    events: _containers.RepeatedCompositeFieldContainer[TaskEvent]
    outcome: Outcome
    def __init__(self, task_id: _Optional[str] = ..., job_id: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., waits_for: _Optional[_Iterable[str]] = ..., events: _Optional[_Iterable[_Union[TaskEvent, _Mapping]]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ...) -> None: ...

class TaskEvent(_message.Message):
    __slots__ = ("at", "fence", "before", "after", "reason")
    AT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    at: float
    fence: int
    before: str
    after: str
    reason: str
    def __init__(self, at: _Optional[float] = ..., fence: _Optional[int] = ..., before: _Optional[str] = ..., after: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RegisterRunnerRequest(_message.Message):
    __slots__ = ("runner_id", "slots", "capacity")
    RUNNER_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    runner_id: str
    slots: int
    capacity: Amount
    def __init__(self, runner_id: _Optional[str] = ..., slots: _Optional[int] = ..., capacity: _Optional[_Union[Amount, _Mapping]] = ...) -> None: ...

class RegisterRunnerResponse(_message.Message):
    __slots__ = ("renew_s", "stop_s")
    RENEW_S_FIELD_NUMBER: _ClassVar[int]
    STOP_S_FIELD_NUMBER: _ClassVar[int]
    renew_s: float
    stop_s: float
    def __init__(self, renew_s: _Optional[float] = ..., stop_s: _Optional[float] = ...) -> None: ...

class RunnerRequest(_message.Message):
    __slots__ = ("runner_id",)
    RUNNER_ID_FIELD_NUMBER: _ClassVar[int]
    runner_id: str
    def __init__(self, runner_id: _Optional[str] = ...) -> None: ...

class RenewRunnerResponse(_message.Message):
    __slots__ = ("revoked",)
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    revoked: _containers.RepeatedCompositeFieldContainer[AttemptName]
    def __init__(self, revoked: _Optional[_Iterable[_Union[AttemptName, _Mapping]]] = ...) -> None: ...

class AttemptName(_message.Message):
    __slots__ = ("task_id", "fence")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: int
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[int] = ...) -> None: ...

class ClaimAttemptsRequest(_message.Message):
    __slots__ = ("runner_id", "most", "request", "wait_s")
    RUNNER_ID_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    runner_id: str
    most: int
    request: int
    wait_s: float
    def __init__(self, runner_id: _Optional[str] = ..., most: _Optional[int] = ..., request: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class ClaimAttemptsResponse(_message.Message):
    __slots__ = ("attempts",)
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    def __init__(self, attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("task_id", "fence", "tenant", "seed", "document", "limits", "sample", "group", "budget", "alone")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: int
    tenant: str
    seed: int
    document: str
    limits: TaskLimits
    sample: int
    group: str
    budget: JobBudget
    alone: bool
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[int] = ..., tenant: _Optional[str] = ..., seed: _Optional[int] = ..., document: _Optional[str] = ..., limits: _Optional[_Union[TaskLimits, _Mapping]] = ..., sample: _Optional[int] = ..., group: _Optional[str] = ..., budget: _Optional[_Union[JobBudget, _Mapping]] = ..., alone: bool = ...) -> None: ...

class ReportAttemptsRequest(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[AttemptReport]
    def __init__(self, reports: _Optional[_Iterable[_Union[AttemptReport, _Mapping]]] = ...) -> None: ...

class AttemptReport(_message.Message):
    __slots__ = ("task_id", "fence", "progress", "outcome", "peak")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PEAK_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: int
    progress: AttemptProgress
    outcome: Outcome
    peak: Amount
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[int] = ..., progress: _Optional[_Union[AttemptProgress, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., peak: _Optional[_Union[Amount, _Mapping]] = ...) -> None: ...

class AttemptProgress(_message.Message):
    __slots__ = ("evaluating", "worker")
    EVALUATING_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    evaluating: bool
    worker: str
    def __init__(self, evaluating: bool = ..., worker: _Optional[str] = ...) -> None: ...

class ReportAttemptsResponse(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[ReportVerdict]
    def __init__(self, verdicts: _Optional[_Iterable[_Union[ReportVerdict, _Mapping]]] = ...) -> None: ...

class ReportVerdict(_message.Message):
    __slots__ = ("accepted", "reason", "error")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    reason: str
    error: Error
    def __init__(self, accepted: bool = ..., reason: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class DrainRunnerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelListing]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelListing, _Mapping]]] = ...) -> None: ...

class ModelListing(_message.Message):
    __slots__ = ("name", "kind", "model", "price", "state", "weight_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    model: str
    price: ModelPrice
    state: str
    weight_version: WeightVersion
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., model: _Optional[str] = ..., price: _Optional[_Union[ModelPrice, _Mapping]] = ..., state: _Optional[str] = ..., weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ...) -> None: ...

class ModelPrice(_message.Message):
    __slots__ = ("input_per_million", "output_per_million", "cached_input_per_million")
    INPUT_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_PER_MILLION_FIELD_NUMBER: _ClassVar[int]
    input_per_million: float
    output_per_million: float
    cached_input_per_million: float
    def __init__(self, input_per_million: _Optional[float] = ..., output_per_million: _Optional[float] = ..., cached_input_per_million: _Optional[float] = ...) -> None: ...

class WeightVersion(_message.Message):
    __slots__ = ("count", "name")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    count: int
    name: str
    def __init__(self, count: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "messages", "text", "ids", "tools", "tool_choice", "parallel_tool_calls", "sampling", "response_format", "reasoning_effort", "stream", "include_usage", "return_token_ids", "extra", "rollout", "whole")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    TOOL_CHOICE_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_TOOL_CALLS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    REASONING_EFFORT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_USAGE_FIELD_NUMBER: _ClassVar[int]
    RETURN_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[ModelMessage]
    text: str
    ids: TokenIds
    tools: _containers.RepeatedCompositeFieldContainer[ModelTool]
    tool_choice: ModelToolChoice
    parallel_tool_calls: bool
    sampling: ModelSampling
    response_format: str
    reasoning_effort: str
    stream: bool
    include_usage: bool
    return_token_ids: bool
    extra: str
    rollout: str
    whole: bool
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[ModelMessage, _Mapping]]] = ..., text: _Optional[str] = ..., ids: _Optional[_Union[TokenIds, _Mapping]] = ..., tools: _Optional[_Iterable[_Union[ModelTool, _Mapping]]] = ..., tool_choice: _Optional[_Union[ModelToolChoice, _Mapping]] = ..., parallel_tool_calls: bool = ..., sampling: _Optional[_Union[ModelSampling, _Mapping]] = ..., response_format: _Optional[str] = ..., reasoning_effort: _Optional[str] = ..., stream: bool = ..., include_usage: bool = ..., return_token_ids: bool = ..., extra: _Optional[str] = ..., rollout: _Optional[str] = ..., whole: bool = ...) -> None: ...

class ModelMessage(_message.Message):
    __slots__ = ("role", "parts", "name")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    role: str
    parts: _containers.RepeatedCompositeFieldContainer[ModelPart]
    name: str
    def __init__(self, role: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ModelPart, _Mapping]]] = ..., name: _Optional[str] = ...) -> None: ...

class ModelPart(_message.Message):
    __slots__ = ("text", "image", "reasoning", "tool_call", "tool_result")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FIELD_NUMBER: _ClassVar[int]
    TOOL_RESULT_FIELD_NUMBER: _ClassVar[int]
    text: str
    image: ModelImage
    reasoning: ModelReasoning
    tool_call: ModelToolCall
    tool_result: ModelToolResult
    def __init__(self, text: _Optional[str] = ..., image: _Optional[_Union[ModelImage, _Mapping]] = ..., reasoning: _Optional[_Union[ModelReasoning, _Mapping]] = ..., tool_call: _Optional[_Union[ModelToolCall, _Mapping]] = ..., tool_result: _Optional[_Union[ModelToolResult, _Mapping]] = ...) -> None: ...

class ModelImage(_message.Message):
    __slots__ = ("url", "detail")
    URL_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    url: str
    detail: str
    def __init__(self, url: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ModelReasoning(_message.Message):
    __slots__ = ("text", "signature")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    text: str
    signature: str
    def __init__(self, text: _Optional[str] = ..., signature: _Optional[str] = ...) -> None: ...

class ModelToolCall(_message.Message):
    __slots__ = ("id", "name", "arguments")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    arguments: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., arguments: _Optional[str] = ...) -> None: ...

class ModelToolResult(_message.Message):
    __slots__ = ("call_id", "content", "is_error")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    IS_ERROR_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    content: _containers.RepeatedCompositeFieldContainer[ModelShown]
    is_error: bool
    def __init__(self, call_id: _Optional[str] = ..., content: _Optional[_Iterable[_Union[ModelShown, _Mapping]]] = ..., is_error: bool = ...) -> None: ...

class ModelShown(_message.Message):
    __slots__ = ("text", "image")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    image: ModelImage
    def __init__(self, text: _Optional[str] = ..., image: _Optional[_Union[ModelImage, _Mapping]] = ...) -> None: ...

class ModelTool(_message.Message):
    __slots__ = ("name", "description", "parameters", "strict")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    parameters: str
    strict: bool
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., parameters: _Optional[str] = ..., strict: bool = ...) -> None: ...

class ModelToolChoice(_message.Message):
    __slots__ = ("mode", "name")
    MODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    mode: str
    name: str
    def __init__(self, mode: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ModelSampling(_message.Message):
    __slots__ = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "stop", "seed", "logprobs")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    stop: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    logprobs: bool
    def __init__(self, max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., stop: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., logprobs: bool = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("model", "events")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    events: _containers.RepeatedCompositeFieldContainer[ModelEvent]
    def __init__(self, model: _Optional[str] = ..., events: _Optional[_Iterable[_Union[ModelEvent, _Mapping]]] = ...) -> None: ...

class ModelEvent(_message.Message):
    __slots__ = ("text", "reasoning", "call_start", "call_delta", "tokens", "finish")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    CALL_START_FIELD_NUMBER: _ClassVar[int]
    CALL_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    text: str
    reasoning: ModelReasoning
    call_start: ModelCallStart
    call_delta: ModelCallDelta
    tokens: ModelTokens
    finish: ModelFinish
    def __init__(self, text: _Optional[str] = ..., reasoning: _Optional[_Union[ModelReasoning, _Mapping]] = ..., call_start: _Optional[_Union[ModelCallStart, _Mapping]] = ..., call_delta: _Optional[_Union[ModelCallDelta, _Mapping]] = ..., tokens: _Optional[_Union[ModelTokens, _Mapping]] = ..., finish: _Optional[_Union[ModelFinish, _Mapping]] = ...) -> None: ...

class ModelCallStart(_message.Message):
    __slots__ = ("index", "id", "name")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    index: int
    id: str
    name: str
    def __init__(self, index: _Optional[int] = ..., id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ModelCallDelta(_message.Message):
    __slots__ = ("index", "arguments")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    index: int
    arguments: str
    def __init__(self, index: _Optional[int] = ..., arguments: _Optional[str] = ...) -> None: ...

class ModelTokens(_message.Message):
    __slots__ = ("ids", "logprobs", "version", "texts", "prompt_ids")
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: LogProbs
    version: WeightVersion
    texts: TokenTexts
    prompt_ids: TokenIds
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Union[LogProbs, _Mapping]] = ..., version: _Optional[_Union[WeightVersion, _Mapping]] = ..., texts: _Optional[_Union[TokenTexts, _Mapping]] = ..., prompt_ids: _Optional[_Union[TokenIds, _Mapping]] = ...) -> None: ...

class LogProbs(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class TokenTexts(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelFinish(_message.Message):
    __slots__ = ("reason", "usage", "stop_sequence")
    REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    STOP_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    usage: ModelUsage
    stop_sequence: str
    def __init__(self, reason: _Optional[str] = ..., usage: _Optional[_Union[ModelUsage, _Mapping]] = ..., stop_sequence: _Optional[str] = ...) -> None: ...

class ModelUsage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("kind", "message", "exception_type", "exception_args", "traceback", "log_tail", "retry_after", "notes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_ARGS_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    LOG_TAIL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    exception_type: str
    exception_args: bytes
    traceback: str
    log_tail: str
    retry_after: float
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., exception_type: _Optional[str] = ..., exception_args: _Optional[bytes] = ..., traceback: _Optional[str] = ..., log_tail: _Optional[str] = ..., retry_after: _Optional[float] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...
