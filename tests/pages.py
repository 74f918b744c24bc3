"""What every page must be: whole, understandable without its pictures, and alone."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "input", "link"}


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"


def check_page(text: str) -> list[tuple[str, dict[str, str | None]]]:
    """The tags of a page, after what all pages have in common is checked."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert not parser.open, parser.open
    tags = parser.seen
    assert ("html", {"lang": "en"}) in tags
    assert any(tag == "meta" and known.get("name") == "viewport" for tag, known in tags)
    for tag, known in tags:
        assert tag != "img" or known.get("alt"), known
        assert tag != "svg" or known.get("aria-label"), known
        for name in ("src", "href"):  # of itself, or beside it
            assert "://" not in (known.get(name) or ""), known
    for media in ("prefers-color-scheme: dark", "print"):
        assert f"@media ({media})" in text or f"@media {media}" in text
    return tags
