"""Reduce a depth stream to fewer rows, for a client that requests five rows of a ten-row market."""

from __future__ import annotations

from harvester.events import codes
from harvester.events.kinds import Operation
from harvester.wire.message_ids import In

# Indexes of position, operation, side, price and size in a depth message.
_PLACES = {str(int(In.DEPTH)): (3, 4, 5, 6, 7), str(int(In.DEPTH_L2)): (3, 5, 6, 7, 8)}
_INSERT, _DELETE = int(Operation.INSERT), int(Operation.DELETE)
_ERROR, _RESET = str(int(In.ERROR)), str(codes.DEPTH_RESET)


class DepthCut:
    """Maps each message of a depth stream to those for a subscriber of `rows` rows.

    It keeps the source's book (`source_rows` per side): a delete among the visible rows makes another row visible,
    which is sent as an insert at the last position. An insert drops the last visible row without a message, as IB does.
    Error 317 resets the book. Other messages pass unchanged; an impossible operation at a visible position passes and
    does not change the book.
    """

    def __init__(self, rows: int, source_rows: int) -> None:
        assert rows > 0, f"a depth stream of {rows} rows is empty"
        self._rows, self._source_rows = rows, source_rows
        self._sides: dict[str, list[list[str]]] = {}

    def __call__(self, fields: list[str]) -> list[list[str]]:
        if fields[0] == _ERROR and fields[3] == _RESET:
            self._sides.clear()
        places = _PLACES.get(fields[0])
        if places is None:
            return [fields]
        at, operation = int(fields[places[0]]), int(fields[places[1]])
        book = self._sides.setdefault(fields[places[2]], [])
        shown = [fields] if at < self._rows else []
        if operation == _INSERT:
            if at <= len(book):
                book.insert(at, list(fields))
                del book[self._source_rows :]
        elif at < len(book):
            if operation != _DELETE:
                book[at] = list(fields)
                return shown
            del book[at]
            if shown and len(book) >= self._rows:
                shown.append(self._last_row(book, places))
        return shown

    def _last_row(self, book: list[list[str]], places: tuple[int, ...]) -> list[str]:
        """The newly visible row as an insert."""
        fields = list(book[self._rows - 1])
        fields[places[0]], fields[places[1]] = str(self._rows - 1), str(_INSERT)
        return fields
