"""Whose word counts against addresses: an account that has taken something since it was set.

A token of another environment, app or project looks to a provider like one that never was. So who has never
taken anything may be set wrongly, and a small app would lose all its addresses before anybody looks.
"""

from typing import Final, Literal

from actors.notify.delivery import Provider
from actors.notify.ports import Account

DOUBTS: Final = 3  # refused in a row by an account that has taken nothing: from then on somebody is told
_PROVEN: Final = -1

Judgement = Literal["believe", "hold", "alert"]


class AccountProof:
    """Note what accounts took; ask `judge` where one calls an address dead that may be none of its own.

    What is known is of this node and since its start. New settings are another provider object: they are
    proven anew.
    """

    __slots__ = ("_doubts",)

    def __init__(self) -> None:
        # (app, account) -> of which settings, and how many addresses these have refused without taking any
        self._doubts: dict[tuple[str, str], tuple[Provider, int]] = {}

    def accepted(self, app_id: str, account: Account) -> None:
        """It has taken one."""
        key = (app_id, account.provider_id)
        known = self._doubts.get(key)
        if known is None or known[0] is not account.provider or known[1] != _PROVEN:
            self._doubts[key] = (account.provider, _PROVEN)

    def judge(self, app_id: str, account: Account) -> Judgement:
        """`believe` it; `hold`: keep the address; `alert`: that, and tell somebody."""
        key = (app_id, account.provider_id)
        known = self._doubts.get(key)
        count = known[1] if known is not None and known[0] is account.provider else 0
        if count == _PROVEN:
            return "believe"
        self._doubts[key] = (account.provider, count + 1)
        return "alert" if count + 1 >= DOUBTS else "hold"
