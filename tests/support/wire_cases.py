"""Requests as they stand on the wire, that two servers might read in two ways; the table of `test_smuggling.py`.

Lines end with CRLF. Invisible characters are written as their pictures: ␍ and ␊ a bare CR and LF, ␀ NUL, ⇥ a tab,
⌫ DEL, ␛ ESC. `/asked` is what the sender admits to ask, `/hidden` what he hopes a second server takes for a request.
"""

from dataclasses import dataclass

PICTURES = {"␍": "\r", "␊": "\n", "␀": "\0", "⇥": "\t", "⌫": "\x7f", "␛": "\x1b", "␋": "\v"}


@dataclass(frozen=True)
class Case:
    """Bytes to send, and the statuses of all responses of the service without a proxy."""

    name: str
    text: str
    answers: tuple[int, ...]

    def sent(self, number: int) -> bytes:
        """The bytes; the number makes the paths those of this case."""
        text = self.text.lstrip("\n").replace("\n", "\r\n")
        for picture, character in PICTURES.items():
            text = text.replace(picture, character)
        text = text.replace("/asked", f"/asked/{number}").replace("/hidden", f"/hidden/{number}")
        return text.encode("latin-1")


def refused(name: str, text: str) -> Case:
    return Case(name, text, (400,))


def post(name: str, fields: str, body: str, *answers: int) -> Case:
    """A POST with a host, these fields and this body; rejected when no statuses are given."""
    return Case(name, f"POST /asked HTTP/1.1\nHost: service\n{fields}\n\n{body}", answers or (400,))


def get(name: str, fields: str, *answers: int) -> Case:
    """A GET with a host and these fields; rejected when no statuses are given."""
    return Case(name, f"GET /asked HTTP/1.1\nHost: service\n{fields}\n\n", answers or (400,))


HIDDEN = "GET /hidden HTTP/1.1\nHost: service\n\n"
CHUNK = "5\nhello\n0\n\n"
CHUNKED = "Transfer-Encoding: chunked"

LENGTHS = [
    post("a length", "Content-Length: 5", "hello", 200),
    post("two requests", "Content-Length: 5", f"hello{HIDDEN}", 200, 200),
    post("no length, so no body", "X: y", HIDDEN, 200, 200),
    post("length and chunked", f"Content-Length: 6\n{CHUNKED}", f"0\n\n{HIDDEN}"),
    post("chunked and length", f"{CHUNKED}\nContent-Length: 4", f"{CHUNK}{HIDDEN}"),
    post("chunked and length 0", f"{CHUNKED}\nContent-Length: 0", f"{CHUNK}{HIDDEN}"),
    post("two lengths", "Content-Length: 0\nContent-Length: 44", HIDDEN),
    post("two equal lengths", "Content-Length: 5\nContent-Length: 5", f"hello{HIDDEN}"),
    post("a list of lengths", "Content-Length: 0, 44", HIDDEN),
    post("a list of equal lengths", "Content-Length: 5, 5", f"hello{HIDDEN}"),
    post("a length with a sign", "Content-Length: +5", f"hello{HIDDEN}"),
    post("a negative length", "Content-Length: -5", f"hello{HIDDEN}"),
    post("a hexadecimal length", "Content-Length: 0x5", f"hello{HIDDEN}"),
    post("a length with a fraction", "Content-Length: 5.0", f"hello{HIDDEN}"),
    post("a length with an underscore", "Content-Length: 4_4", f"hello{HIDDEN}"),
    post("a length with a space inside", "Content-Length: 4 4", f"hello{HIDDEN}"),
    post("an empty length", "Content-Length:", HIDDEN),
    post("a length of words", "Content-Length: five", f"hello{HIDDEN}"),
    post("a length beyond 64 bits", "Content-Length: 18446744073709551621", f"hello{HIDDEN}"),
    post("a length with a vertical tab", "Content-Length: ␋5", f"hello{HIDDEN}"),
    post("a length with NUL", "Content-Length: 5␀", f"hello{HIDDEN}"),
    get("a length larger than what follows", "Content-Length: 5000", 408),
]

CODINGS = [
    post("chunked", CHUNKED, CHUNK, 200),
    post("chunked, in capitals", "Transfer-Encoding: CHUNKED", CHUNK, 200),
    post("chunked twice", f"{CHUNKED}\n{CHUNKED}", f"{CHUNK}{HIDDEN}"),
    post("chunked twice in a list", "Transfer-Encoding: chunked, chunked", f"{CHUNK}{HIDDEN}"),
    post("chunked, then identity", f"{CHUNKED}\nTransfer-Encoding: identity", f"{CHUNK}{HIDDEN}"),
    post("identity, then chunked", f"Transfer-Encoding: identity\n{CHUNKED}", f"{CHUNK}{HIDDEN}", 501),
    post("identity", "Transfer-Encoding: identity", f"{CHUNK}{HIDDEN}"),
    post("identity with a length", "Transfer-Encoding: identity\nContent-Length: 5", f"hello{HIDDEN}"),
    post("gzip in chunks", "Transfer-Encoding: gzip, chunked", f"{CHUNK}{HIDDEN}", 501),
    post("chunks in gzip", "Transfer-Encoding: chunked, gzip", f"{CHUNK}{HIDDEN}"),
    post("a coding that begins like chunked", "Transfer-Encoding: chunkedx", f"{CHUNK}{HIDDEN}"),
    post("a coding that ends like chunked", "Transfer-Encoding: xchunked", f"{CHUNK}{HIDDEN}"),
    post("chunked in quotes", 'Transfer-Encoding: "chunked"', f"{CHUNK}{HIDDEN}"),
    post("chunked with a parameter", "Transfer-Encoding: chunked;q=1", f"{CHUNK}{HIDDEN}"),
    post("a comma before chunked", "Transfer-Encoding: ,chunked", f"{CHUNK}{HIDDEN}", 501),
    post("a comma after chunked", "Transfer-Encoding: chunked,", f"{CHUNK}{HIDDEN}"),
    post("chunked after a vertical tab", "Transfer-Encoding: ␋chunked", f"{CHUNK}{HIDDEN}"),
    post("chunked before NUL", "Transfer-Encoding: chunked␀", f"{CHUNK}{HIDDEN}"),
    post("chunked after a tab", "Transfer-Encoding:⇥chunked", CHUNK, 200),
    post("an empty coding", "Transfer-Encoding:", f"{CHUNK}{HIDDEN}"),
    post("an empty coding with a length", "Transfer-Encoding:\nContent-Length: 5", f"hello{HIDDEN}"),
    post("a name with an underscore", "Transfer_Encoding: chunked\nContent-Length: 5", "hello", 200),
    refused("chunks in HTTP/1.0", f"POST /asked HTTP/1.0\nHost: service\n{CHUNKED}\n\n{CHUNK}{HIDDEN}"),
]

CHUNKS = [
    post("a chunk with an extension", CHUNKED, "5;name=value\nhello\n0\n\n", 200),
    post("a chunk with a quoted extension", CHUNKED, '5;name="a value"\nhello\n0;last\n\n', 200),
    post("an extension with a bare LF", CHUNKED, f"5;␊hello\n0\n\n{HIDDEN}"),
    post("an extension with a bare CR", CHUNKED, f"5;a␍b\nhello\n0\n\n{HIDDEN}"),
    post("an extension with NUL", CHUNKED, f"5;a␀b\nhello\n0\n\n{HIDDEN}"),
    post("a size with a space before", CHUNKED, f" 5\nhello\n0\n\n{HIDDEN}"),
    post("a size with a space after", CHUNKED, f"5 \nhello\n0\n\n{HIDDEN}"),
    post("a size with a prefix", CHUNKED, f"0x5\nhello\n0\n\n{HIDDEN}"),
    post("a negative size", CHUNKED, f"-5\nhello\n0\n\n{HIDDEN}"),
    post("a size with a sign", CHUNKED, f"+5\nhello\n0\n\n{HIDDEN}"),
    post("a size with an underscore", CHUNKED, f"0_5\nhello\n0\n\n{HIDDEN}"),
    post("a size that is no number", CHUNKED, f"five\nhello\n0\n\n{HIDDEN}"),
    post("an empty size", CHUNKED, f"\nhello\n0\n\n{HIDDEN}"),
    post("a size with zeros before", CHUNKED, "0000000005\nhello\n000\n\n", 200),
    post("a size beyond 64 bits", CHUNKED, f"10000000000000005\nhello\n0\n\n{HIDDEN}"),
    post("a size of many digits", CHUNKED, f"{'f' * 64}\nhello\n0\n\n{HIDDEN}"),
    post("a size that is too small", CHUNKED, f"4\nhello\n0\n\n{HIDDEN}"),
    post("a size that ends with a bare LF", CHUNKED, f"5␊hello\n0\n\n{HIDDEN}"),
    post("a size that ends with a bare CR", CHUNKED, f"5␍hello\n0\n\n{HIDDEN}"),
    post("a chunk that ends with a bare LF", CHUNKED, f"5\nhello␊0\n\n{HIDDEN}"),
    post("a chunk that ends with nothing", CHUNKED, f"5\nhello0\n\n{HIDDEN}"),
    post("an end with bare LF", CHUNKED, f"5\nhello\n0␊␊{HIDDEN}"),
    post("trailers", CHUNKED, "5\nhello\n0\nChecksum: 1\n\n", 200),
    post("trailers that frame", CHUNKED, f"5\nhello\n0\nContent-Length: 44\n\n{HIDDEN}"),
    post("trailers that frame again", CHUNKED, f"5\nhello\n0\n{CHUNKED}\n\n{HIDDEN}"),
    post("a trailer with a bare LF", CHUNKED, f"5\nhello\n0\nX: y␊Y: z\n\n{HIDDEN}"),
    post("a trailer with NUL", CHUNKED, f"5\nhello\n0\nX: ␀\n\n{HIDDEN}"),
]

FIELDS = [
    get("a field", "X: y", 200),
    get("a space before the colon", f"{CHUNKED} : x\nX : y"),
    post("chunked with a space before the colon", "Transfer-Encoding : chunked\nContent-Length: 5", f"hello{HIDDEN}"),
    post("length with a tab before the colon", "Content-Length⇥: 5", f"hello{HIDDEN}"),
    post("a folded field", "X: y\n z\nContent-Length: 5", f"hello{HIDDEN}"),
    post("chunked, folded", "Transfer-Encoding:\n chunked\nContent-Length: 5", f"{CHUNK}{HIDDEN}"),
    post("chunked, behind a fold", f"X: y\n {CHUNKED}", f"{CHUNK}{HIDDEN}"),
    refused("a first field that begins with a space", f"POST /asked HTTP/1.1\n Host: service\n{CHUNKED}\n\n{CHUNK}"),
    get("a bare LF after a field", "X: y␊Y: z"),
    post("chunked after a bare LF", f"X: y␊{CHUNKED}", f"{CHUNK}{HIDDEN}"),
    post("chunked after a bare CR", f"X: y␍{CHUNKED}", f"{CHUNK}{HIDDEN}"),
    refused("a head that ends with bare LF", f"GET /asked HTTP/1.1\nHost: service␊␊{HIDDEN}"),
    refused("only bare LF", "GET /asked HTTP/1.1␊Host: service␊␊"),
    get("NUL in a value", "X: a␀b"),
    get("NUL in a name", "X␀: y"),
    get("DEL in a value", "X: a⌫b"),
    get("ESC in a value", "X: a␛[31mb"),
    get("ESC in a name", "X␛: y"),
    get("a tab in a value", "X: a⇥b", 200),
    get("a byte above ASCII in a value", "X: é", 200),
    get("a byte above ASCII in a name", "Xé: y"),
    get("an empty name", ": y"),
    get("a name without a colon", "X"),
    get("a name with brackets", "X[]: y"),
    get("an empty value", "X:", 200),
    get("a request that another protocol should go on with", "Connection: upgrade\nUpgrade: h2c", 200),
    post("an upgrade with a body", "Connection: upgrade\nUpgrade: x\nContent-Length: 5", f"hello{HIDDEN}", 200, 200),
    post("an upgrade with chunks", f"Connection: upgrade\nUpgrade: x\n{CHUNKED}", f"{CHUNK}{HIDDEN}", 200, 200),
    get("an upgrade that nobody takes", f"Connection: upgrade\nUpgrade: websocket\n\n{HIDDEN}", 200, 200),
    get("a request after the last", f"Connection: close\n\n{HIDDEN}", 200),
    post("an expectation", "Expect: 100-continue\nContent-Length: 5", f"hello{HIDDEN}", 200, 200),
]

HOSTS = [
    refused("no host", "GET /asked HTTP/1.1\n\n"),
    Case("no host in HTTP/1.0", "GET /asked HTTP/1.0\n\n", (200,)),
    refused("two hosts", "GET /asked HTTP/1.1\nHost: service\nHost: other\n\n"),
    refused("two equal hosts", "GET /asked HTTP/1.1\nHost: service\nHost: service\n\n"),
    refused("a host with a path", "GET /asked HTTP/1.1\nHost: service/hidden\n\n"),
    refused("a host with a user", "GET /asked HTTP/1.1\nHost: user@service\n\n"),
    refused("a host with a space", "GET /asked HTTP/1.1\nHost: service other\n\n"),
    refused("a host with two ports", "GET /asked HTTP/1.1\nHost: service:80:80\n\n"),
    refused("a host in half of a bracket", "GET /asked HTTP/1.1\nHost: [::1\n\n"),
    Case("a host that is an address", "GET /asked HTTP/1.1\nHost: [::1]:80\n\n", (200,)),
    refused("an empty host", "GET /asked HTTP/1.1\nHost:\n\n"),
]

LINES = [
    Case("absolute form", "GET http://service/asked HTTP/1.1\nHost: service\n\n", (200,)),
    Case("absolute form with another host", "GET http://other/asked HTTP/1.1\nHost: service\n\n", (200,)),
    Case("absolute form without a path", "GET http://service HTTP/1.1\nHost: service\n\n", (404,)),
    refused("absolute form of another scheme", "GET ftp://service/asked HTTP/1.1\nHost: service\n\n"),
    refused("authority form", "GET service:80 HTTP/1.1\nHost: service\n\n"),
    refused("CONNECT", f"CONNECT service:80 HTTP/1.1\nHost: service:80\n\n{HIDDEN}"),
    refused("CONNECT with a path", f"CONNECT /asked HTTP/1.1\nHost: service\n\n{HIDDEN}"),
    Case("asterisk form", "OPTIONS * HTTP/1.1\nHost: service\n\n", (204,)),
    refused("asterisk form of a GET", "GET * HTTP/1.1\nHost: service\n\n"),
    refused("no slash", "GET asked HTTP/1.1\nHost: service\n\n"),
    refused("a space in the target", "GET /asked /hidden HTTP/1.1\nHost: service\n\n"),
    refused("a tab in the target", "GET /asked⇥/hidden HTTP/1.1\nHost: service\n\n"),
    refused("NUL in the target", "GET /asked␀ HTTP/1.1\nHost: service\n\n"),
    refused("a byte above ASCII in the target", "GET /asked/é HTTP/1.1\nHost: service\n\n"),
    refused("a bare CR in the line", "GET /asked␍HTTP/1.1\nHost: service\n\n"),
    refused("a bare LF after the line", "GET /asked HTTP/1.1␊Host: service\n\n"),
    Case("two spaces in the line", "GET  /asked HTTP/1.1\nHost: service\n\n", (200,)),  # RFC 9112, section 3: may be
    refused("a space before the line", " GET /asked HTTP/1.1\nHost: service\n\n"),
    refused("a space after the line", "GET /asked HTTP/1.1 \nHost: service\n\n"),
    Case("an empty line before", "\n␍␊GET /asked HTTP/1.1\nHost: service\n\n", (200,)),
    refused("HTTP/0.9", f"GET /asked\n\n{HIDDEN}"),
    refused("no version", f"GET /asked \nHost: service\n\n{HIDDEN}"),
    Case("HTTP/2", "GET /asked HTTP/2.0\nHost: service\n\n", (505,)),
    Case("HTTP/2's preface", "PRI * HTTP/2.0\n\nSM\n\n", (501,)),
    refused("HTTP/1.2", "GET /asked HTTP/1.2\nHost: service\n\n"),
    refused("HTTP/1.10", "GET /asked HTTP/1.10\nHost: service\n\n"),
    refused("http in lower case", "GET /asked http/1.1\nHost: service\n\n"),
    Case("a method in lower case", "get /asked HTTP/1.1\nHost: service\n\n", (501,)),
    Case("an unknown method", "BREW /asked HTTP/1.1\nHost: service\n\n", (501,)),
    refused("NUL in the method", "G␀ET /asked HTTP/1.1\nHost: service\n\n"),
    Case("one request, then nonsense", f"{HIDDEN.replace('hidden', 'asked')}nonsense\n\n{HIDDEN}", (200, 400)),
]

CASES = [*LENGTHS, *CODINGS, *CHUNKS, *FIELDS, *HOSTS, *LINES]
