"""Stays with one process until it ends; runs wherever an engine puts it.

Imports the standard library alone: Ray ships this file to its workers as it is.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence


def attend(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: str,
    seconds: float,
    started: Callable[[subprocess.Popen], None] = lambda process: None,
) -> str:
    """Runs a command to its end.

    Its standard input is a pipe from here: it can see that this process is gone.

    Args:
      command: program and arguments.
      environment: changes of the environment.
      log: file for what it prints; beside it, ending in `.err`, that for its errors.
        Both keep what was there before.
      seconds: after so long it is killed.
      started: told of the process.

    Returns:
      nothing if it ended well, else how it ended.
    """
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with (
        open(log, "ab") as out,
        open(f"{os.path.splitext(log)[0]}.err", "ab") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=errors,
            env={**os.environ, **environment},
            # Ctrl-C is for whoever attends, who then ends it.
            start_new_session=True,
        ) as process,
    ):
        try:
            started(process)
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"was stopped after {seconds / 60:g} minutes, its job.time"
        except BaseException:
            process.kill()
            raise
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}" if code else ""
