"""A depth stream of fewer rows, made out of one of more: for a client who asks for five rows of a ten-row market."""

from __future__ import annotations

from harvester.events.kinds import Operation
from harvester.wire.ids import In

# Where position, operation, side, price and size stand in a depth message.
_PLACES = {str(int(In.DEPTH)): (3, 4, 5, 6, 7), str(int(In.DEPTH_L2)): (3, 5, 6, 7, 8)}
_INSERT, _DELETE = int(Operation.INSERT), int(Operation.DELETE)


class DepthCut:
    """Maps each depth message to the messages a subscriber of `rows` rows gets.

    It keeps the source's whole book (`source_rows` a side), because a delete inside the view brings the row below it
    into view: that is sent as an insert at the foot. Inserts push the last row out of view silently, as IB's do.
    Messages of other kinds pass unchanged; an impossible operation passes if it lies in view and changes nothing here.
    """

    def __init__(self, rows: int, source_rows: int) -> None:
        assert rows > 0, f"a depth stream of {rows} rows shows nothing"
        self._rows, self._source_rows = rows, source_rows
        self._sides: dict[str, list[list[str]]] = {"0": [], "1": []}

    def __call__(self, fields: list[str]) -> list[list[str]]:
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
                shown.append(self._foot(book, places))
        return shown

    def _foot(self, book: list[list[str]], places: tuple[int, ...]) -> list[str]:
        """The row that has come into view, as an insert."""
        fields = list(book[self._rows - 1])
        fields[places[0]], fields[places[1]] = str(self._rows - 1), str(_INSERT)
        return fields
