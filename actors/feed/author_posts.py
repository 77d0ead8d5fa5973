"""An author's own posts: create, repost, edit, delete."""

from collections.abc import Callable
from typing import Final

import msgspec

from actors.address import Address
from actors.attachments import attachments_of
from actors.feed import author_rules as rules
from actors.feed import notices
from actors.feed.address import author_address
from actors.feed.author_base import CACHED, KnownPost, Needs
from actors.feed.author_fanout import AuthorFanout
from actors.feed.followers import Step
from actors.feed.lately import Lately
from actors.messages import Ask, RepostMoved, post_thing
from actors.reply import Reply
from actors.stream_actor import Staged
from protocol import feed_commands, replies
from protocol.codec import Encoded
from protocol.errors import Refused, Unavailable
from protocol.feed_events import FeedChanged
from protocol.feed_replies import PostInfo
from protocol.feed_types import Post
from protocol.records import Appended, AuthorRow, FanoutJob, Op, PostCountsRow, PostRow, Put, User
from protocol.stored_events import encode_json
from protocol.stored_posts import post_of

_LANGUAGE_S: Final = 60.0  # people hardly ever change it
MAX_PENDING_POSTS: Final = 256  # of one author, on their way to feeds that do not take them; then busy


class _PostedBody(msgspec.Struct, frozen=True):
    post_id: int


_posted_body: Final = msgspec.json.Decoder(_PostedBody).decode


class AuthorPosts(AuthorFanout):
    """Decide on the author's posts."""

    def __init__(self, address: Address, needs: Needs) -> None:
        super().__init__(address, needs)
        self._unstored: dict[int, PostRow] = {}  # posts in flight
        self._keys: dict[str, int] = {}  # client_id -> post_id of those
        self._language = ""
        self._language_until = float("-inf")  # trio.current_time() seconds
        self._reposts: Lately[int, int] = Lately(CACHED)  # what is repeated -> the own repost; 0: none

    # -- new ones -----------------------------------------------------------------------------------

    async def _create(self, ask: Ask, command: feed_commands.CreatePost, reply: Reply) -> None:
        rules.check_post_text(command.text, has_files=bool(command.file_ids))
        if await self._is_repeated(command.client_id, reply, text=command.text):
            return
        self._check_pending()
        files = await attachments_of(self._log, ask.app_id, command.file_ids)
        await self._check_mentions(ask.app_id, command.mentions)
        language = command.language or await self._own_language()
        hashtags = rules.hashtags_of(command.text)
        steps = await self._steps_unless_hot()
        at_ms = self._at_ms()
        row = PostRow(
            post_id=self._ids.next(self._shard, at_ms),
            author_id=self._id,
            app_id=ask.app_id,
            at_ms=at_ms,
            client_id=command.client_id,
            text=command.text,
            files=encode_json(files) if files else "",
            mentions=encode_json(command.mentions) if command.mentions else "",
            hashtags=encode_json(hashtags) if hashtags else "",
            language=language,
            visibility=command.visibility,
            is_hot=self._author.is_hot,
        )
        mentioned = await self._who_may_see(row, command.mentions)
        self._stage_post(row, steps, reply, lambda: self._info(row.post_id))
        for user_id in mentioned:
            self._notify(notices.mentioned_in_post(row, user_id))

    async def _own_language(self) -> str:
        """The language of the author's profile, as of a minute ago at most."""
        now = self._ctx.now()
        if now >= self._language_until:
            user = await self._log.get(User, self._id)
            self._language = "" if user is None else user.language
            self._language_until = now + _LANGUAGE_S
        return self._language

    async def _repost(self, ask: Ask, command: feed_commands.Repost, reply: Reply) -> None:
        """Repeat what is public; of a repost, what that one repeats."""
        if await self._is_repeated(command.client_id, reply, target_id=command.post_id):
            return
        root, counts = await self._root(ask.app_id, command.post_id)
        own_id = await self._repost_of(root.post_id)
        if own_id:
            await self._answer_repeated(reply, own_id)
            return
        rules.may_repost(root, await self._log.get(AuthorRow, root.author_id))
        liked, _ = await self._log.posts.marks(self._id, [root.post_id])
        self._check_pending()
        steps = await self._steps_unless_hot()
        at_ms = self._at_ms()
        row = PostRow(
            post_id=self._ids.next(self._shard, at_ms),
            author_id=self._id,
            app_id=ask.app_id,
            at_ms=at_ms,
            client_id=command.client_id,
            language=root.language,
            repost_of=root.post_id,
            root_author_id=root.author_id,
            is_hot=self._author.is_hot,
        )
        self._reposts.put(root.post_id, row.post_id)
        self._tell_root(row, removed=False)
        original = post_of(root, counts)  # this repost is counted a moment later, by the author of the post
        self._stage_post(
            row,
            steps,
            reply,
            lambda: self._info(row.post_id, original=original, liked=bool(liked), reposted=True),
        )

    async def _root(self, app_id: str, post_id: int) -> tuple[PostRow, PostCountsRow | None]:
        """The post that a repost of this one repeats. Raises: Refused("post_not_found")."""
        found = await self._log.posts.post(post_id)
        if found is not None and found[0].repost_of and not found[0].deleted_at_ms:
            found = await self._log.posts.post(found[0].repost_of)
        if found is None or found[0].app_id != app_id or found[0].deleted_at_ms:
            raise Refused("post_not_found")
        return found

    async def _steps_unless_hot(self) -> list[Step]:
        """To whom a post goes; nothing for a hot author's, which is merged in when feeds are read."""
        return [] if self._author.is_hot else await self._steps()

    def _check_pending(self) -> None:
        """Raises: Unavailable("busy"), when feeds do not take as much as is posted."""
        if len(self._pushes) + len(self._unstored) >= MAX_PENDING_POSTS:
            raise Unavailable("busy", "Earlier posts are still on their way.", retry_after_s=0.5)

    def _stage_post(
        self, row: PostRow, steps: list[Step], reply: Reply, info: Callable[[], PostInfo]
    ) -> None:
        changes: dict[str, object] = {
            "app_id": row.app_id,
            "post_count": self._author.post_count + 1,
            "last_post_id": row.post_id,
        }
        if row.is_hot:
            changes["last_hot_id"] = row.post_id
        put_author = self._change_author(**changes)
        event = self._event("posted", {"post_id": row.post_id}, at_ms=row.at_ms, client_id=row.client_id)
        row_index = self._stage_row(event, _Posting(self, row, self._author, steps, reply, info))
        ops: list[Op] = [Put(row, row_index), put_author]
        if steps:
            job = FanoutJob(post_id=row.post_id, author_id=self._id, shard=self._shard)
            ops.append(Put(job, row_index))
        self._stage_ops(ops)
        self._unstored[row.post_id] = row
        self._keys[row.client_id] = row.post_id

    def _posted(self, row: PostRow, author: AuthorRow, at: Appended, *, is_pending: bool) -> None:
        """Take note of a post that is stored, before anybody hears of it."""
        assert not at.is_duplicate  # the key was looked up, and nobody else writes this stream
        del self._unstored[row.post_id]
        if self._keys.get(row.client_id) == row.post_id:
            del self._keys[row.client_id]
        # Found in the store already, it may have been liked since.
        if self._known_posts.get(row.post_id) is None:
            self._known_posts.put(row.post_id, KnownPost(row, PostCountsRow(post_id=row.post_id)))
        if row.is_hot:
            self._index.author_changed(author)
        self._index.posted(row, is_pending=is_pending)

    def _info(
        self,
        post_id: int,
        *,
        liked: bool = False,
        reposted: bool = False,
        original: Post | None = None,
        duplicate: bool = False,
    ) -> PostInfo:
        """The answer about a post that was used just now."""
        known = self._known_posts.get(post_id)
        assert known is not None
        return PostInfo(
            post=post_of(known.row, known.counts),
            original=original,
            liked=liked,
            reposted=reposted,
            duplicate=duplicate,
        )

    # -- the same again -----------------------------------------------------------------------------

    async def _is_repeated(self, client_id: str, reply: Reply, *, text: str = "", target_id: int = 0) -> bool:
        """Answer a repetition like the first time. Raises: Refused("payload_conflict")."""
        post_id = self._keys.get(client_id, 0)
        if not post_id:
            at = await self._log.appended(self._stream, self._id, client_id)
            entry = None if at is None else await self._log.entry(self._stream, at.seq)
            if entry is None:
                return False
            post_id = _posted_body(entry.body).post_id
        first = self._unstored.get(post_id)
        if first is None:
            known = await self._post(post_id)
            assert known is not None  # stored with the entry
            first = known.row
        if target_id and first.repost_of not in (0, target_id):  # perhaps of a repost of the same
            target = await self._log.posts.post(target_id)
            target_id = 0 if target is None else target[0].repost_of
        is_other = first.repost_of != target_id
        if not (first.edited_at_ms or first.deleted_at_ms):
            is_other = is_other or first.text != text
        if is_other:
            raise Refused("payload_conflict")
        await self._answer_repeated(reply, post_id)
        return True

    async def _answer_repeated(self, reply: Reply, post_id: int) -> None:
        """Answer with a post that is there already, or on its way."""
        row = self._unstored.get(post_id)
        if row is None:
            known = await self._post(post_id)
            assert known is not None
            row = known.row
        original = None
        if row.repost_of:
            root = await self._log.posts.post(row.repost_of)
            original = None if root is None else post_of(*root)
        target_id = row.repost_of or post_id
        liked, reposted = await self._log.posts.marks(self._id, [target_id])
        # One that is on its way is not in the store.
        is_reposted = bool(reposted) or bool(self._reposts.get(target_id))

        def answer(_at: Appended | None) -> PostInfo:
            return self._info(
                post_id, liked=bool(liked), reposted=is_reposted, original=original, duplicate=True
            )

        self._answer_when_stored(reply, answer)

    async def _repost_of(self, root_id: int) -> int:
        """The own repost of a post; 0: none."""
        own_id = self._reposts.get(root_id)
        if own_id is None:
            row = await self._log.posts.repost_by(self._id, root_id)
            own_id = 0 if row is None else row.post_id
            self._reposts.put(root_id, own_id)
        return own_id

    # -- changes ------------------------------------------------------------------------------------

    async def _own(self, ask: Ask, post_id: int) -> KnownPost:
        """A post of the author's, deleted or not. Raises: Refused(post_not_found, not_author)."""
        known = await self._post(post_id)
        if known is None:
            # Looked up here and not by the service, so that edits of one's own posts keep their order.
            found = await self._log.posts.post(post_id)
            if found is None or not await self._may_see(ask.app_id, found[0]):
                raise Refused("post_not_found")
            raise Refused("not_author")
        return known

    async def _may_see(self, app_id: str, row: PostRow) -> bool:
        """Whether this author sees somebody else's post."""
        rows = [row]
        if row.repost_of:
            root = await self._log.posts.post(row.repost_of)
            if root is None:
                return False
            rows.append(root[0])
        views = await self._log.posts.views(self._id, list({one.author_id for one in rows}))
        return all(
            one.app_id == app_id and rules.may_see(one, views[one.author_id], self._id) for one in rows
        )

    async def _edit(self, ask: Ask, command: feed_commands.EditPost, reply: Reply) -> None:
        known = await self._own(ask, command.post_id)
        row = known.row
        rules.may_edit(row)
        changes: dict[str, object] = {}
        if command.text is not None:
            rules.check_post_text(command.text, has_files=bool(row.files))
            hashtags = rules.hashtags_of(command.text)
            changes["text"] = command.text
            changes["hashtags"] = encode_json(hashtags) if hashtags else ""
        if command.mentions is not None:
            await self._check_mentions(ask.app_id, command.mentions)
            changes["mentions"] = encode_json(command.mentions) if command.mentions else ""
        if command.visibility is not None:
            changes["visibility"] = command.visibility
        liked, reposted = await self._log.posts.marks(self._id, [row.post_id])
        if all(getattr(row, name) == value for name, value in changes.items()):
            info = PostInfo(post=post_of(row, known.counts), liked=bool(liked), reposted=bool(reposted))
            self._answer_in_order(reply, info)
            return
        known.row = new = msgspec.structs.replace(row, edited_at_ms=self._at_ms(), **changes)

        def after(_at: Appended | None) -> None:
            self._index.edited(new)
            self._publish_changed(new, known.counts)

        self._stage_ops([Put(new)])
        self._stage_row(
            self._event("post_edited", {"post_id": row.post_id}, at_ms=new.edited_at_ms),
            Staged(
                reply,
                lambda _at: PostInfo(
                    post=post_of(new, known.counts), liked=bool(liked), reposted=bool(reposted)
                ),
                after=after,
            ),
        )

    async def _delete(self, ask: Ask, command: feed_commands.DeletePost, reply: Reply) -> None:
        known = await self._own(ask, command.post_id)
        row = known.row
        if row.deleted_at_ms:
            self._answer_in_order(reply, replies.Ok())
            return
        known.row = new = msgspec.structs.replace(
            row, text="", files="", mentions="", hashtags="", deleted_at_ms=self._at_ms()
        )
        if row.repost_of:
            self._reposts.put(row.repost_of, 0)
            self._tell_root(row, removed=True)

        def after(_at: Appended | None) -> None:
            self._index.deleted(new)
            self._publish_changed(new, known.counts)

        self._stage_ops([Put(new), self._change_author(post_count=self._author.post_count - 1)])
        self._withdraw_notices(post_thing(row.post_id), row.app_id, post_of(row, known.counts).mentions)
        self._stage_row(
            self._event("post_deleted", {"post_id": row.post_id}, at_ms=new.deleted_at_ms),
            Staged(reply, lambda _at: replies.Ok(), after=after),
        )

    def _publish_changed(self, row: PostRow, counts: PostCountsRow) -> None:
        is_for_all = row.visibility == "public" and not self._author.is_private
        if not (is_for_all or row.deleted_at_ms):
            return  # who watches it may have stopped following, and learns it by the next read
        event = Encoded(FeedChanged(post=post_of(row, counts)))
        self._fanout.publish_post(row.post_id, ("feed_changed", str(row.post_id)), event)

    def _tell_root(self, row: PostRow, *, removed: bool) -> None:
        """Let the author of what is repeated count it."""
        moved = RepostMoved(row.repost_of, self._id, row.post_id, removed)
        self._stage_tell_to(author_address(row.root_author_id), moved)


class _Posting(Staged):
    """A post on its way into the log."""

    __slots__ = ("_actor", "_author", "_info", "_row", "_steps")

    def __init__(
        self,
        actor: AuthorPosts,
        row: PostRow,
        author: AuthorRow,
        steps: list[Step],
        reply: Reply,
        info: Callable[[], PostInfo],
    ) -> None:
        super().__init__(reply, None)
        self._actor = actor
        self._author = author
        self._info = info
        self._row = row
        self._steps = steps

    def note(self, at: Appended | None) -> None:
        assert at is not None
        self._actor._posted(self._row, self._author, at, is_pending=bool(self._steps))

    def resolve(self, at: Appended | None) -> None:
        """Answer, then push: the author need not wait for it."""
        self.reply.resolve(self._info())
        if self._steps:
            self._actor._begin_push(self._row.post_id, self._steps)
