// Ask again, for a while: over refusals that mean "later", and over the change to another node. Messages do not come
// this way: the outbox never gives up on them.

const PATIENCE_MS = 20_000; // another node has taken over by then
const LATER = new Set(["busy", "overloaded", "rate_limited", "outcome_unknown", "restarted", "storage_unavailable", "draining", "timeout", "moved"]);
const ONCE = new Set(["create_invite", "set_typing", "activity", "logout"]); // a repetition would do something more
const DONE = { // what a repetition is told whose first try arrived
  leave: ["not_member", "conversation_not_found"],
  remove_member: ["not_member", "user_not_found"],
  delete: ["message_deleted", "message_not_found"],
  revoke_invite: ["invite_not_found"],
  remove_contact: ["contact_not_found"],
  answer_contact: ["contact_not_found"],
  revoke_session: ["not_found"],
  delete_post: ["post_not_found"],
  delete_comment: ["comment_not_found"],
  answer_follow: ["follow_not_found"],
  remove_follower: ["follow_not_found"],
};

/** Resolve with the reply of `ask(command)`. Rejects with the last error: one that is final, or when time is up. */
export async function askPatiently(ask, command, patience_ms = PATIENCE_MS) {
  const until = performance.now() + patience_ms;
  for (let wasLost = false; ; ) {
    try {
      return await ask(command);
    } catch (error) {
      if (wasLost && (DONE[command.type] || []).includes(error.code)) return { type: "ok" };
      const isLost = error.code === "disconnected" && navigator.onLine;
      if (ONCE.has(command.type) || !(isLost || LATER.has(error.code))) throw error;
      wasLost ||= isLost || error.code === "timeout" || error.code === "outcome_unknown";
      const wait_ms = (error.retry_after_s || 0.2) * 1000 + Math.random() * 500;
      if (performance.now() + wait_ms > until) throw error;
      await new Promise((resolve) => setTimeout(resolve, wait_ms));
    }
  }
}
