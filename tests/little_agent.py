"""A small command-line agent, with nothing but Python's own library: chat completions, one tool.

Runs in sandboxes, so it imports nothing of ours: `little_agent.py INSTRUCTION`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from typing import Any

SHELL = {
    "type": "function",
    "function": {
        "name": "shell",
        "description": "Run a command.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
}


def asked(messages: list[Any]) -> Any:
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "some-name", "messages": messages, "tools": [SHELL]}).encode(),
        {
            "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]


def main(instruction: str) -> None:
    # It says its key aloud, as programs do that print their settings.
    print("key:", os.environ["OPENAI_API_KEY"], flush=True)
    print("backwards:", os.environ["OPENAI_API_KEY"][::-1], flush=True)
    messages: list[Any] = [
        {"role": "system", "content": "Work by shell. Key " + os.environ["OPENAI_API_KEY"]},
        {"role": "user", "content": instruction},
    ]
    while True:
        answer = asked(messages)
        messages.append(answer)
        if not answer.get("tool_calls"):
            print("said:", answer["content"], flush=True)
            return
        for call in answer["tool_calls"]:
            command = json.loads(call["function"]["arguments"])["command"]
            done = subprocess.run(
                ["sh", "-c", command], capture_output=True, text=True, check=False
            )
            said = done.stdout + done.stderr
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": said})


if __name__ == "__main__":
    main(sys.argv[1])
