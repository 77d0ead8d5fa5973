"""The actor of one notification partition: it alone decides what its users are told, and remembers it.

From below: keeper.py has users in memory, open_keeper.py open deliveries, sender.py writes texts and chooses
addresses, gatherer.py makes batches and digests, digester.py tells what digests hold, text_keeper.py has
templates compiled before they are needed, recent_finder.py looks up what memory has forgotten, decider.py
sends messages through the pipeline, releaser.py what was held, retirer.py lets dead addresses go,
deliverer.py stores attempts and results, fallbacks.py tries the next channel, undelivered_desk.py another way
for what was taken and not delivered, receipt_desk.py takes what providers tell later, redriver.py tries again
what was given up, timekeeper.py lets time pass, wish_keeper.py and consent_keeper.py keep what users want,
registrar.py their addresses, user_desk.py serves them, notice_desk.py takes what other actors tell,
fact_keeper.py follows what others write of users, canceller.py cancels, withdrawer.py takes back what was
told of things that are deleted, stopper.py stops an address for whoever has it, turns.py lets others have
theirs in between. Here is what comes in.
"""

from typing import Final

from actors.entity import EntityContext
from actors.messages import Ask, Told
from actors.notify.cancel_finder import CancelFound
from actors.notify.consent_keeper import Erasing, NotErased
from actors.notify.decider import Settled
from actors.notify.deliverer import Begin, Conclude, Resume
from actors.notify.fact_keeper import FactsRead
from actors.notify.keeper import Loaded
from actors.notify.messages import (
    CancelPart,
    DeliveryTold,
    DropAddress,
    EraseUser,
    Mark,
    Notify,
    PutAddress,
    Redrive,
    StopAddress,
    Unsubscribe,
    UserChanged,
)
from actors.notify.notice_desk import NoticeRead, Passing
from actors.notify.plan import Ready
from actors.notify.receipt_desk import ToldAgain
from actors.notify.recent_finder import RecentFound
from actors.notify.registrar import Registering
from actors.notify.stopper import Spread, Stopper, Stopping
from actors.notify.text_keeper import TextsReady
from actors.notify.timekeeper import Looked, Tick, Tidied, Tidy
from actors.notify.turns import Rest
from actors.notify.user_desk import MarkFound
from actors.notify.withdrawer import WithdrawnFound
from actors.reply import NO_REPLY, Reply
from protocol.errors import HubbubError, Refused

NO_ROOM_RETRY_S: Final = 0.2


class NotifyPartition(Stopper):
    """Own the notifications of one partition's users."""

    async def activate(self, ctx: EntityContext) -> None:
        self.begin_texts()
        await super().activate(ctx)
        self.begin_time()
        if ctx.restarted:  # what was stored last may not have been shown
            self._restarted(self._partition)

    def woken(self) -> None:
        self.look_in(0.0)  # a clock that was set is noticed

    def handle_nowait(self, message: object, reply: Reply) -> bool:
        """Take what needs no look at the store."""
        match message:
            case Notify() if self.is_called_off(message):
                reply.fail(Refused("request_not_found", "The request was cancelled."))
            case Notify() if self.is_withdrawn(message):
                self.drop_withdrawn(message, reply)
            case Notify() if self.is_behind(message):
                self.catch_up(message, reply)
            case Notify():
                if (
                    self._has_users(message.user_ids, message, reply)
                    and self.knows_recent(message, message, reply)
                    and self.has_texts(message, message, reply)
                    and self.rests_on_stored(message, message, reply)
                ):
                    if message.content.template and len(message.user_ids) > 1:
                        self.notify_in_turns(message, reply)
                    else:
                        self.notify(message, reply)
            case Conclude() | Begin() | Resume() | Erasing() | Rest() | Ready() if not self.has_room():
                # A refused append would end this incarnation, and what is under way would be unknown.
                self._ctx.post_after(NO_ROOM_RETRY_S, message)
            case Rest():
                self._take_rest(message)
            case Conclude():
                # What may be tried again is first asked for by its user's wishes.
                job = message.job
                is_last = message.outcome.kind == "accepted" and not job.told_code
                if is_last or self._has_users((job.user_id,), message, reply):
                    self.concluded(job, message.account, message.outcome)
            case Begin():
                self.began(message)
            case Resume():
                if self._has_users(message.user_ids, message, reply):
                    self.resume(message)
            case Tick():
                self.tick(message)
            case Tidy():
                self.tidy()
            case Tidied():
                self.tidied(message)
            case MarkFound():
                self.mark_found(message)
            case Registering():
                self.looked_up(message)
            case Erasing():
                self.erase_found(message)
            case CancelPart():
                self.cancel_part(message, reply)
            case CancelFound():
                self.cancel_found(message)
            case WithdrawnFound():
                self.withdrawn_found(message)
            case UserChanged(user_id=user_id):
                self.user_changed(user_id)
            case NotErased():
                self.not_erased(message)
            case Told():
                self.take_told(message, reply)
            case Passing():
                self.pass_on(message)
            case _:
                return False
        return True

    async def handle(self, message: object, reply: Reply) -> None:
        if self.handle_nowait(message, reply):
            return
        match message:
            case Loaded():
                await self._take_users(message)
            case RecentFound():
                await self.recent_found(message)
            case TextsReady():
                await self.texts_ready(message)
                self.look_in(0.0)  # what is held of that app is read again
            case FactsRead():
                await self.take_facts(message)
            case Settled():
                await self.settled()
            case Looked():
                await self.looked(message)
            case Ready():  # its users have been read, and may have been forgotten in between
                if self._has_users([row.user_id for row in message.rows], message, NO_REPLY):
                    self.released(message)
            case Ask(user_id=user_id):
                if self._has_users((user_id,), message, reply):
                    self.command(message, reply)
            case PutAddress(user_id=user_id):
                if self._has_users((user_id,), message, reply):
                    self.put_address(message, reply)
            case StopAddress():
                if self._has_users(message.user_ids, message, reply):
                    self.stop_address(message, reply)
            case Stopping():
                self.stopping(message)
            case Spread():
                self.spread(message)
            case DropAddress(user_id=user_id):
                if self._has_users((user_id,), message, reply):
                    self.drop_address(message, reply)
            case Unsubscribe(user_id=user_id):
                if self._has_users((user_id,), message, reply):
                    self.unsubscribe(message, reply)
            case EraseUser(user_id=user_id):
                if self._has_users((user_id,), message, reply):
                    self.erase(message, reply)
            case Mark():
                self.mark_one(message, reply)
            case DeliveryTold():
                await self.told(message, reply)
            case ToldAgain():
                await self.told_again(message)
            case NoticeRead():
                self.notice_read(message, reply)
            case Redrive():
                await self.redrive(message, reply)
            case _:
                raise TypeError(f"a notification partition does not take {type(message).__name__}")

    def _take_rest(self, rest: Rest) -> None:
        """Go on with a request, unless it was cancelled; what goes wrong is told to who waits for it."""
        message, reply = rest.left, rest.asked.reply
        try:
            if self.is_called_off(message) or self.is_withdrawn(message):
                raise Refused("request_not_found", "The request was cancelled.")
            if (
                self._has_users(message.user_ids, rest, reply)
                and self.has_texts(message, rest, reply)
                and self.rests_on_stored(message, rest, reply)
            ):
                self.go_on(rest)
        except HubbubError as error:
            reply.fail(error)
