"""The edge session: hello, answers, limits, deadlines and closes, over real sockets."""

import pytest
import trio
import trio.testing

from protocol.commands import CreateGroup, FindUsers, Heartbeat, Hello, History, Join, Logout, Send
from protocol.errors import CloseCode, Unavailable
from protocol.events import Closing, MessagePosted, Resync
from protocol.limits import MAX_OUTBOX_BYTES, MAX_UNACKED_SENDS, PAGE_BYTES
from protocol.replies import Error, HeartbeatAck, MessagePage, Ok, Sent, Welcome
from server.ratelimit import Rate
from server.session import Session, SessionLimits
from tests.server.edge import HELLO, TYPING, Bot, dial, open_bot, open_edge, posted

pytestmark = pytest.mark.usefixtures("both_pumps")

STRANGERS = [f"u{number}" for number in range(50)]


def send(command_id: int, conversation_id: str = "c1", text: str = "hi") -> Send:
    return Send(id=command_id, conversation_id=conversation_id, client_id=f"m{command_id}", text=text)


async def test_each_command_is_answered_once_by_its_id() -> None:
    """Clients match answers to commands by id; a command without one is answered only by errors."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            quiet = Send(conversation_id="c1", client_id="q", text="no answer wanted")
            quiet_error = Send(conversation_id="nowhere", client_id="q", text="hi")
            await bot.send(send(5), quiet, quiet_error, send(6, "nowhere"), TYPING)
            answers = [await bot.receive() for _ in range(4)]
            assert answers[0] == Sent(id=5, conversation_id="c1", seq=1, at_ms=1)
            assert [type(answer) for answer in answers[1:]] == [Error, Error, Ok]
            assert [answer.id for answer in answers[1:] if isinstance(answer, Error)] == [0, 6]
            assert answers[3] == Ok(id=9)
            assert edge.service.opened[0].unanswered_count == 0


async def test_events_pushed_while_opening_follow_the_welcome() -> None:
    """A client sets itself up from welcome; an event before it would have no place."""
    with trio.fail_after(30):
        async with open_edge() as edge:

            async def push(session: Session) -> None:
                session.push(posted(1), "c1", 1)
                await trio.lowlevel.checkpoint()

            edge.service.on_open = push
            bot = Bot(await dial(edge))
            await bot.send(HELLO)
            assert isinstance(await bot.receive(), Welcome)
            assert isinstance(await bot.receive(), MessagePosted)


@pytest.mark.parametrize(
    ("first", "error_code", "close_code"),
    [
        (Hello(id=3, token="bad", device_id="d"), "unauthenticated", CloseCode.UNAUTHENTICATED),
        (Hello(id=3, token="later", device_id="d"), "storage_unavailable", CloseCode.OVERLOADED),
        (send(3), "hello_expected", CloseCode.HELLO_EXPECTED),
    ],
)
async def test_a_connection_that_may_not_open_is_told_why_and_closed(
    first: Hello | Send, error_code: str, close_code: CloseCode
) -> None:
    """The close code tells the client whether to come again; the error says what was wrong."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = Bot(await dial(edge))
            await bot.send(first)
            error, closing = await bot.rest()
            assert isinstance(error, Error)
            assert (error.id, error.code) == (3, error_code)
            assert isinstance(closing, Closing)
            assert closing.code == close_code
            assert not edge.service.opened


async def test_a_connection_without_hello_is_closed_in_time() -> None:
    """A socket that says nothing costs a place."""
    with trio.fail_after(30):
        async with open_edge(session=SessionLimits(hello_timeout_s=0.2)) as edge:
            bot = Bot(await dial(edge))
            error, closing = await bot.rest()
            assert isinstance(error, Error)
            assert error.code == "hello_timeout"
            assert isinstance(closing, Closing)
            assert closing.code == CloseCode.HELLO_TIMEOUT


async def test_a_service_that_cannot_open_in_time_closes_with_a_retry() -> None:
    """`closed` is called even so: the service has nothing to clean up in `open`."""
    with trio.fail_after(30):
        async with open_edge(session=SessionLimits(open_timeout_s=0.2)) as edge:

            async def hang(session: Session) -> None:
                await trio.sleep_forever()

            edge.service.on_open = hang
            bot = Bot(await dial(edge))
            await bot.send(HELLO)
            error, closing = await bot.rest()
            assert isinstance(error, Error)
            assert (error.id, error.code) == (1, "timeout")
            assert isinstance(closing, Closing)
            assert closing.code == CloseCode.OVERLOADED
            await edge.service.until(lambda: edge.service.closed_sessions == edge.service.opened)


async def test_malformed_commands_leave_the_connection_up() -> None:
    """A client with one bad button must not lose its connection over it."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            bad = [
                (b"\xc1", 0, "bad_frame"),
                (b"\x82\xa4type\xa4nope\xa2id\x07", 7, "unknown_type"),
                (b"\x82\xa4type\xa4send\xa2id\x08", 8, "bad_field"),
            ]
            for payload, command_id, code in bad:
                await bot.stream.send_all(len(payload).to_bytes(4, "big") + payload)
                error = await bot.receive()
                assert isinstance(error, Error)
                assert (error.id, error.code) == (command_id, code)
            await bot.send(HELLO)
            error = await bot.receive()
            assert isinstance(error, Error)
            assert error.code == "hello_repeated"
            await bot.send(send(9))
            assert isinstance(await bot.receive(), Sent)


async def test_the_socket_is_not_read_while_32_commands_are_unanswered() -> None:
    """Back-pressure instead of a queue: the store's pace becomes the client's pace."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            await bot.send(*[send(number, "held") for number in range(1, 101)])
            await edge.service.until(lambda: len(edge.service.held) == MAX_UNACKED_SENDS)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(edge.service.commands) == MAX_UNACKED_SENDS
            edge.service.held[0].resolve(Ok())
            assert await bot.receive() == Ok(id=1)
            await edge.service.until(lambda: len(edge.service.held) == MAX_UNACKED_SENDS + 1)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(edge.service.commands) == MAX_UNACKED_SENDS + 1
            for reply in edge.service.held:
                reply.resolve(Ok())
            await edge.service.until(lambda: len(edge.service.held) > 64)


async def test_the_socket_is_not_read_while_64_kib_are_unanswered() -> None:
    """Few but long messages are bounded as well."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: bot.send(*[send(n, "held", "x" * 30_000) for n in range(1, 9)]))
                await edge.service.until(lambda: len(edge.service.held) == 3)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert len(edge.service.held) == 3
                edge.service.held[0].fail(Unavailable("overloaded"))
                error = await bot.receive()
                assert isinstance(error, Error)
                assert (error.id, error.code, error.retry_after_s) == (1, "overloaded", 1.0)
                await edge.service.until(lambda: len(edge.service.held) == 4)
                nursery.cancel_scope.cancel()


async def test_a_client_that_asks_for_pages_and_reads_none_is_bounded() -> None:
    """Answers always find room, so the room must be there before the question is read."""
    with trio.fail_after(40):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            sock = bot.stream
            assert isinstance(sock, trio.SocketStream)
            await bot.send(*[History(id=number, conversation_id="c1") for number in range(1, 201)])
            session = edge.service.opened[0]
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(edge.service.commands) < 100
            assert session.outbox_bytes <= MAX_OUTBOX_BYTES + PAGE_BYTES
            for number in range(1, 201):  # once it reads, everything comes
                page = await bot.receive()
                assert isinstance(page, MessagePage)
                assert page.id == number


async def test_a_reader_that_stops_reading_is_bounded_and_then_dropped() -> None:
    """A slow client slows nobody and costs at most its outbox; after 10 s it is gone."""
    with trio.fail_after(40):
        async with open_edge(session=SessionLimits(write_timeout_s=0.5)) as edge:
            await open_bot(edge)  # and never read again
            session = edge.service.opened[0]
            for seq in range(1, 100_001):
                session.push(posted(seq, "x" * 500), "c1", seq)
                if seq % 1000 == 0:
                    await trio.lowlevel.checkpoint()
                    assert session.outbox_bytes <= MAX_OUTBOX_BYTES
            await edge.service.until(lambda: bool(edge.service.closed_sessions))
            await edge.gateway.until_empty()
            assert session.close_code == CloseCode.SLOW_CONSUMER
            assert edge.metrics.closes[CloseCode.SLOW_CONSUMER] == 1
            assert edge.metrics.outbox.dropped_count > 50_000


async def test_a_reader_that_catches_up_learns_what_it_missed() -> None:
    """The drop is announced once, with the head to sync to."""
    with trio.fail_after(40):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            session = edge.service.opened[0]
            for seq in range(1, 5001):
                session.push(posted(seq, "x" * 500), "c1", seq)
            seen = 0
            while True:
                event = await bot.receive()
                if isinstance(event, Resync):
                    break
                assert isinstance(event, MessagePosted)
                seen += 1
                assert event.seq == seen
            assert event == Resync(conversation_id="c1", head=5000)
            session.push(posted(5001), "c1", 5001)
            event = await bot.receive()
            assert isinstance(event, MessagePosted)
            assert event.seq == 5001


async def test_a_flooder_is_refused_with_a_retry_time_and_then_dropped() -> None:
    """A flood is refused, not buffered, and its sender does not keep the node busy for ever."""
    limits = SessionLimits(commands=Rate(10.0, 20.0), refusals=Rate(1.0, 50.0))
    with trio.fail_after(30):
        async with open_edge(session=limits) as edge:
            bot = await open_bot(edge)
            await bot.send(*[Heartbeat(id=number) for number in range(1, 101)])
            messages = await bot.rest()
            refused = [message for message in messages if isinstance(message, Error)]
            assert sum(isinstance(message, HeartbeatAck) for message in messages) in range(20, 25)
            assert {error.code for error in refused} == {"rate_limited"}
            assert all(error.retry_after_s is not None and error.retry_after_s > 0 for error in refused)
            assert len(refused) in range(50, 55)
            assert isinstance(messages[-1], Closing)
            assert messages[-1].code == CloseCode.RATE_LIMITED


async def test_heavy_commands_cost_more_of_the_sessions_allowance() -> None:
    """Searches and long lists must not be as cheap as typing marks."""
    limits = SessionLimits(commands=Rate(0.01, 20.0))
    with trio.fail_after(30):
        async with open_edge(session=limits) as edge:
            bot = await open_bot(edge)
            await bot.send(*[FindUsers(id=number, prefix="a") for number in range(1, 6)])
            answers = [await bot.receive() for _ in range(5)]
            assert [type(answer) for answer in answers] == [Ok, Ok, Ok, Ok, Error]
            refused = answers[-1]
            assert isinstance(refused, Error)
            assert refused.code == "rate_limited"
            assert refused.retry_after_s == pytest.approx(500, rel=0.01)


async def test_a_users_sessions_share_one_allowance_of_creations() -> None:
    """Whoever spams strangers with groups must not get further by opening more connections."""
    with trio.fail_after(30):
        async with open_edge(creations=Rate(0.01, 4.0)) as edge:
            codes = []
            for device in ("d1", "d2"):
                bot = await open_bot(edge, device_id=device)
                await bot.send(
                    CreateGroup(id=1, title="x", client_id="g", member_ids=STRANGERS),
                    TYPING,
                )
                codes += [type(await bot.receive()) for _ in range(2)]
            assert codes == [Ok] * 4  # a typing mark is no creation
            await bot.send(Join(id=2, code="abc"))
            refused = await bot.receive()
            assert isinstance(refused, Error)
            assert refused.code == "rate_limited"
            assert refused.retry_after_s == pytest.approx(100, rel=0.01)
            other = await open_bot(edge, "ben")
            await other.send(Join(id=3, code="abc"))
            assert await other.receive() == Ok(id=3)


async def test_a_silent_device_is_closed_and_one_that_waits_for_us_is_not() -> None:
    """60 s of silence mean that it is gone; but a client is not silent while we do not listen."""
    with trio.fail_after(40):
        async with open_edge(session=SessionLimits(heartbeat_timeout_s=0.3)) as edge:
            silent = await open_bot(edge, device_id="silent")
            waiting = await open_bot(edge, device_id="waiting")
            await waiting.send(*[send(number, "held") for number in range(1, 34)])
            await edge.service.until(lambda: len(edge.service.held) == MAX_UNACKED_SENDS)
            assert await silent.close_code() == CloseCode.HEARTBEAT_TIMEOUT
            assert [session.device_id for session in edge.service.closed_sessions] == ["silent"]


async def test_the_same_device_again_replaces_its_older_connection() -> None:
    """A phone that changed networks must not be in the room twice."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            older = await open_bot(edge)
            newer = await open_bot(edge)
            other_device = await open_bot(edge, device_id="d2")
            assert await older.close_code() == CloseCode.REPLACED
            for bot in (newer, other_device):
                await bot.send(TYPING)
                assert await bot.receive() == Ok(id=9)
            assert {session.device_id for session in edge.gateway.sessions_of("ann")} == {"d1", "d2"}


async def test_revoking_a_login_closes_its_connections_only() -> None:
    """Logging a lost phone out works at once."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            phone = await open_bot(edge, "ann:phone", "phone")
            laptop = await open_bot(edge, "ann:laptop", "laptop")
            for session in edge.gateway.sessions_of("ann"):
                if session.identity.session_id == "phone":
                    session.close(CloseCode.SESSION_REVOKED)
            assert await phone.close_code() == CloseCode.SESSION_REVOKED
            await laptop.send(Logout(id=4))
            assert await laptop.receive() == Ok(id=4)
            assert await laptop.close_code() == CloseCode.SESSION_REVOKED
            await edge.service.until(lambda: len(edge.service.closed_sessions) == 2)
            assert not edge.gateway.sessions_of("ann")


async def test_an_expired_token_ends_its_connection() -> None:
    """A short-lived token of an app's backend must not open a session for ever."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge, "ann:expired")
            assert await bot.close_code() == CloseCode.UNAUTHENTICATED


async def test_a_user_has_a_bounded_number_of_devices() -> None:
    """One account cannot take all places."""
    with trio.fail_after(30):
        async with open_edge(max_sessions_per_user=2) as edge:
            await open_bot(edge, device_id="a")
            await open_bot(edge, device_id="b")
            third = Bot(await dial(edge))
            await third.send(Hello(id=1, token="ann", device_id="c"))
            error, closing = await third.rest()
            assert isinstance(error, Error)
            assert error.code == "too_many_connections"
            assert isinstance(closing, Closing)
            assert closing.code == CloseCode.OVERLOADED


async def test_a_bug_in_the_service_ends_one_connection_only() -> None:
    """The client is told to come again; its neighbour does not notice."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            victim = await open_bot(edge, "ann")
            neighbour = await open_bot(edge, "ben")
            await victim.send(send(1, "bug"))
            assert await victim.close_code() == CloseCode.INTERNAL
            await neighbour.send(TYPING)
            assert await neighbour.receive() == Ok(id=9)
            assert [session.user_id for session in edge.service.closed_sessions] == ["ann"]


async def test_an_answer_after_the_end_is_thrown_away() -> None:
    """Actors answer when they can; a session that has gone must not trouble them."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            await bot.send(send(1, "held"), send(2, "held"))
            await edge.service.until(lambda: len(edge.service.held) == 2)
            await bot.stream.aclose()
            await edge.service.until(lambda: bool(edge.service.closed_sessions))
            edge.service.held[0].resolve(Ok())
            edge.service.held[1].resolve("not a reply")
            assert all(reply.is_done for reply in edge.service.held)


async def test_an_answer_that_cannot_be_encoded_is_an_internal_error() -> None:
    """A bug in an answer must not reach into the actor that gave it."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            await bot.send(send(1, "held"))
            await edge.service.until(lambda: bool(edge.service.held))
            edge.service.held[0].resolve({"not": "a reply"})
            edge.service.held[0].resolve(Ok())
            error = await bot.receive()
            assert isinstance(error, Error)
            assert (error.id, error.code) == (1, "internal")


async def test_only_the_first_answer_counts() -> None:
    """A drain waits for the number of unanswered commands to be 0; two answers must not count twice."""
    with trio.fail_after(30):
        async with open_edge() as edge:
            bot = await open_bot(edge)
            await bot.send(send(1, "held"))
            await edge.service.until(lambda: bool(edge.service.held))
            edge.service.held[0].fail(Unavailable("busy"))
            edge.service.held[0].resolve(Ok())
            edge.service.held[0].fail(Unavailable("internal"))
            assert edge.service.opened[0].unanswered_count == 0
            await bot.send(TYPING)
            error, ok = await bot.receive(), await bot.receive()
            assert isinstance(error, Error)
            assert error.code == "busy"
            assert ok == Ok(id=9)
