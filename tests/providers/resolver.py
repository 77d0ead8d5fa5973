"""A name server whose answers a test chooses."""

import trio


class Resolver(trio.abc.HostnameResolver):
    """Answers in turn, as a name does whose owner rebinds it."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked_count = 0

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]
        self.asked_count += 1
        await trio.lowlevel.checkpoint()
        return [(2, 1, 6, "", (address, port)) for address in self.answers.pop(0)]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError
