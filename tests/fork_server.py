"""Processes of `hv` that do not load its libraries again: one process loads them once and forks for each command.

    python fork_server.py SOCKET MODULE...      loads the modules, serves until its standard input ends
    python fork_server.py --run SOCKET WORDS    what a test starts instead of `python WORDS`

The second form passes its files, folder, environment and words to the first, forwards signals to the fork, ends as it
ends, and when it is killed, so is the fork. WORDS are `-m MODULE ...`, `-c CODE ...` or `FILE ...`.
"""

# Imported by `--run`: only the standard library, and as little of it as possible.
from __future__ import annotations

import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM)


def run(path: str, words: list[str]) -> int:
    """The exit code of the fork; a signal that ended it ends this process too."""
    import json

    fork = 0
    early: list[int] = []

    def forward(number: int, _: object) -> None:
        if fork:
            os.kill(fork, number)
        else:
            early.append(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()  # noqa: PTH109 - pathlib is slow to load
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [len(request).to_bytes(8, "little")], [0, 1, 2])
        server.sendall(request)
        answers = server.makefile("rb")
        fork = int(answers.readline())
        for number in early:
            os.kill(fork, number)
        status = int(answers.readline())
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def serve(path: str) -> list[str]:
    """Fork for every request. Returns only in the forks, with their words; files, folder, environment are theirs."""
    import selectors

    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    forks: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for source in (0, ended, listening):
            selector.register(source, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    sys.exit(0)
                if key.fileobj == ended:
                    os.read(ended, 4096)
                    reap(forks, selector)
                elif key.fileobj is listening:
                    client, _ = listening.accept()
                    head, files, _, _ = socket.recv_fds(client, 8, 3)
                    body = client.makefile("rb").read(int.from_bytes(head, "little"))
                    if not (pid := os.fork()):
                        signal.set_wakeup_fd(-1)
                        for number in (signal.SIGCHLD, signal.SIGINT):
                            signal.signal(number, signal.SIG_DFL)
                        signal.signal(signal.SIGINT, signal.default_int_handler)
                        for each in (listening, client, *forks.values()):
                            each.close()
                        return become(files, body)
                    for file in files:
                        os.close(file)
                    forks[pid] = client
                    client.sendall(b"%d\n" % pid)
                    selector.register(client, selectors.EVENT_READ, pid)
                elif key.data in forks:  # the requesting process was killed: so is the fork
                    selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)


def reap(forks: dict[int, socket.socket], selector: object) -> None:
    import contextlib

    while forks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        client = forks.pop(pid)
        with contextlib.suppress(KeyError):
            selector.unregister(client)  # type: ignore[attr-defined]
        with contextlib.suppress(OSError), client:
            client.sendall(b"%d\n" % status)


def become(files: list[int], body: bytes) -> list[str]:
    """Take over files, folder and environment as Python does at its start; returns the words."""
    import io
    import json

    words, folder, environment = json.loads(body)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    terminal = os.isatty(1)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")  # noqa: SIM115 - the process' own
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", line_buffering=terminal)  # noqa: SIM115 - the same
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", closefd=False),  # noqa: SIM115 - the same
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    return words


def main() -> None:
    if sys.argv[1] == "--run":
        sys.exit(run(sys.argv[2], sys.argv[3:]))
    import gc
    import importlib.util
    import runpy

    for name in sys.argv[2:]:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the forks' searches for garbage, the last one at their exit, leave out what is loaded
    words = serve(sys.argv[1])
    sys.argv = {"-m": words[1:], "-c": ["-c", *words[2:]]}.get(words[0], words)
    code = None
    try:
        if words[0] == "-m":
            sys.modules.pop(words[1], None)  # loaded above, but must run as the main module
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            exec(words[1], {"__name__": "__main__"})
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    leave(code)


def leave(code: object) -> None:
    """End as Python does, but do not take apart all that is loaded, which takes a tenth of a second.

    What is unusual (a text as exit code, a standard file that cannot be flushed) ends the usual way.
    """
    import atexit
    import contextlib
    import threading

    with contextlib.suppress(OSError, ValueError, AttributeError):  # AttributeError: the files were closed or removed
        if code is None or isinstance(code, int):
            threading._shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit((code or 0) & 0xFF)
    sys.exit(code)


if __name__ == "__main__":
    main()
