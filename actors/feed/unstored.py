"""Pairs of users that were decided on and are not stored yet: what a read of the store may not show."""


class Move:
    """One decision; the newest of a pair counts."""

    __slots__ = ("is_there", "other_id", "user_id")

    def __init__(self, user_id: str, other_id: str, *, is_there: bool) -> None:
        self.user_id = user_id
        self.other_id = other_id
        self.is_there = is_there


class Unstored:
    """Who is, or is no more, on the list of whom by what was decided and is still on its way."""

    __slots__ = ("_moves",)

    def __init__(self) -> None:
        self._moves: dict[str, dict[str, Move]] = {}

    def put(self, user_id: str, other_id: str, *, is_there: bool) -> Move:
        """Take note of a decision; `stored` is owed for it."""
        move = Move(user_id, other_id, is_there=is_there)
        self._moves.setdefault(user_id, {})[other_id] = move
        return move

    def stored(self, move: Move) -> None:
        """A decision is in the store."""
        moves = self._moves.get(move.user_id)
        if moves is not None and moves.get(move.other_id) is move:
            del moves[move.other_id]
            if not moves:
                del self._moves[move.user_id]

    def of(self, user_id: str) -> dict[str, bool]:
        """The user's pairs by the other one: whether each will be there. A copy."""
        return {other_id: move.is_there for other_id, move in self._moves.get(user_id, {}).items()}
