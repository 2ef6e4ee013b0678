"""Where jobs, tasks, attempts and runners are kept: the contract in `base`, and one module per implementation.

`memory` is the model that the others are tested against, `sql` is SQLite and PostgreSQL over one `schema`.
"""
