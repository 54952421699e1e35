"""The command line.

`cli.app` catches Ctrl-C; the hook below catches it while `cli.app` is being loaded, a fifth of a second.
"""

import sys
from types import TracebackType


def _last_word(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) and "--debug" not in sys.argv:
        sys.stderr.write("hv: interrupted\n")  # Python then ends by the signal, which shells count as 130
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _last_word
