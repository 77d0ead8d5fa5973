"""The peer's tasks, as a worker of dramatiq imports them: one text message is one POST to Twilio's API.

What Twilio's own library does for a message, without its checks of arguments: a POST of a form by `requests`,
with a session and so with connections that are kept. Settings come from the environment, as usual:
PEER_REDIS (URL), PEER_URL, PEER_USER, PEER_SECRET, PEER_SENDER, PEER_CA (path).
"""

import os
import threading

import dramatiq
import requests
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(  # type: ignore[no-untyped-call]  # dramatiq types its actors only
    url=os.environ.get("PEER_REDIS", "redis://127.0.0.1:6379/0")
)
dramatiq.set_broker(broker)
_local = threading.local()
_TIMEOUT_S = 10.0


@dramatiq.actor(max_retries=3, min_backoff=1_000)  # type: ignore[untyped-decorator,unused-ignore]
def send_text(to: str, text: str) -> None:
    """Send one text message. An answer that is no 2xx raises, and dramatiq tries again."""
    session: requests.Session | None = getattr(_local, "session", None)
    if session is None:
        session = _local.session = requests.Session()
        session.auth = (os.environ["PEER_USER"], os.environ["PEER_SECRET"])
        session.trust_env = False  # no look at proxies and the like for each request
        session.verify = os.environ["PEER_CA"]
    form = {"To": to, "From": os.environ["PEER_SENDER"], "Body": text}
    session.post(os.environ["PEER_URL"], data=form, timeout=_TIMEOUT_S).raise_for_status()
