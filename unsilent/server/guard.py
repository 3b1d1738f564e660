"""Access control: the server's token, the origin of pages, and one token per client, so that clients see only their own results."""

import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from unsilent.server.settings import Settings
from unsilent.server.store import digest_of

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
CLIENT, TOKEN = "unsilent_client", "unsilent_token"  # cookies
CLIENT_HEADER = "unsilent-client"
_LEAST = 16  # minimum length of a client's token in characters, so that it cannot be guessed
_OPEN = ("/api/health",)
_BODY_BYTES = 1 << 20  # maximum body of a request other than an upload
_LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1", "testserver")
# Content security policies: pages load nothing from other origins. Reports have inline styles and images, and no scripts.
_PAGE_RULES = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_REPORT_RULES = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'"


class Guard:
    """ASGI middleware: checks access, puts the digest of the client's token into `scope["state"]["client"]`, and counts
    responses by status code."""

    def __init__(self, app: Any, settings: Settings) -> None:
        self.app, self.settings, self.answers = app, settings, Counter[int]()

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Forward a request, or reject it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        cookies, path = _cookies(headers.get("cookie", "")), scope["path"]
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        named = headers.get(CLIENT_HEADER) or cookies.get(CLIENT, "")
        client = named if len(named) >= _LEAST else secrets.token_urlsafe(24)
        scope.setdefault("state", {})["client"] = digest_of(client)
        new = [] if client == named else [_cookie(CLIENT, client)]
        if self._is_right(given):
            new.append(_cookie(TOKEN, given))

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.answers[message["status"]] += 1
                rules = _REPORT_RULES if path.startswith("/reports/") else _PAGE_RULES
                message["headers"] = [
                    *message["headers"], *((b"set-cookie", one) for one in new), (b"content-security-policy", rules.encode()),
                    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
                    (b"cross-origin-resource-policy", b"same-origin"),
                ]  # fmt: skip
            await send(message)

        refused = None if path in _OPEN else self._refusal(headers, cookies.get(TOKEN, ""), given)
        if refused is None and (scope["method"], path) != ("PUT", "/api/inputs"):
            refused = _body_refusal(headers)
        if refused is None:
            await self.app(scope, receive, answer)
            return
        status, sentence = refused
        body = f'{{"error":"{sentence}"}}'.encode()
        await answer({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    def _is_right(self, token: str) -> bool:
        return self.settings.token is not None and hmac.compare_digest(token.encode(), self.settings.token.encode())

    def _refusal(self, headers: dict[str, str], cookie: str, given: str) -> tuple[int, str] | None:
        host = urlsplit(f"//{headers.get('host', '')}")
        if self.settings.is_local and (host.hostname or "") not in _LOCAL:
            return 421, "this server can only be reached under the names of this machine."  # prevents DNS rebinding
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        followed = headers.get("sec-fetch-mode") == "navigate"  # a link, which is allowed from any origin
        is_foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        if is_foreign or (site not in ("none", "same-origin") and not followed):
            return 403, "a page of another origin may not use this server."
        if self.settings.token is None:
            return None
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if any(map(self._is_right, (bearer, cookie, given))):
            return None
        return 401, "this server needs a token: open the address that it printed, or send the token as Authorization: Bearer TOKEN."


def _body_refusal(headers: dict[str, str]) -> tuple[int, str] | None:
    """Reject a body whose length is unknown or above the limit, because only uploads are streamed to disk."""
    if "transfer-encoding" in headers:
        return 411, "this request must have a Content-Length."
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > _BODY_BYTES:
        return 413, f"the body has more than {_BODY_BYTES} bytes, which is the limit of requests other than uploads."
    return None


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: one.value for name, one in SimpleCookie(header).items()}
    except CookieError:
        return {}


def _cookie(name: str, value: str) -> bytes:
    made = SimpleCookie({name: value})
    made[name].update({"path": "/", "httponly": True, "samesite": "Strict", "max-age": 365 * 86400})
    return made[name].OutputString().encode("latin-1", "replace")
