"""Token renewal through the server, where ``PANDA_AUTH_TOKEN_KEY`` gives a key for it.

Most tokens are rotated in their file by the cluster, and nothing needs to be done. Where the server renews them, it is asked in
a token's last hours. Whatever it answers, the token of the file stays: a refusal, a token that is none or one that the server
then does not take can only leave things as they were.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pilot.panda.auth import CredentialsUnusable, TokenCredentials
from pilot.panda.client import PandaClient
from pilot.panda.errors import CredentialsRefused, ServerRefused, ServerUnreachable
from pilot.runtime.loops import Helpers
from pilot.runtime.retry import RetryPolicy
from pilot.runtime.secret import SecretFile
from pilot.runtime.stop import Stop

logger = logging.getLogger(__name__)

EVERY_S = 3600.0  # the reference pilot's
LAST_S = 2 * EVERY_S  # of a token: then it is time
AGAIN_S = 300.0  # after a server that did not answer
LEAVE_BEHIND_S = 0.5
POLICY = RetryPolicy("token renewal", tries=2, first_s=1, cap_s=5, total_s=30)


@contextmanager
def renewed_by_server(
    server: PandaClient, token: TokenCredentials | None, key: SecretFile | None, every_s: float = EVERY_S
) -> Iterator[None]:
    """While inside, the token is renewed in its last hours; with no token or no key nothing is done."""
    if token is None or key is None:
        yield
        return

    def keep(stop: Stop) -> None:
        while not stop.is_set():
            stop.wait(_renewed(server, token, key, every_s, stop))

    helpers = Helpers(Stop())
    helper = helpers.start("token-renewal", keep)
    try:
        yield
    finally:
        helpers.finish(helper, LEAVE_BEHIND_S)


def _renewed(server: PandaClient, token: TokenCredentials, key: SecretFile, every_s: float, stop: Stop) -> float:
    """Renew the token if it is time; seconds until it is time to look again."""
    try:
        left_s = token.left_s()
        if left_s is not None and left_s > LAST_S:
            return min(left_s - LAST_S, every_s)
        fresh = server.access_token(key.read(), stop, POLICY)
    except (CredentialsRefused, ServerRefused, CredentialsUnusable, OSError) as trouble:
        logger.warning("the token is not renewed: %s", trouble)
        return every_s
    except ServerUnreachable as trouble:
        logger.warning("the token is not renewed yet: %s", trouble)
        return min(AGAIN_S, every_s)
    if token.adopt(fresh):
        logger.info("the token is renewed; the new one ends in %.0f s", token.left_s() or 0.0)
    else:
        logger.warning("the server's token does not end later than the one in use, which stays")
    return every_s
