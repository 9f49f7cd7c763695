"""The page for people: every figure with its interval, what is not proven, and no markup from the data."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from service.evidence.rendering import render
from tests import certificate_cases as cases


class Strict(HTMLParser):
    """Collects text and fails on tags that do not match."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    parser.text = " ".join(parser.text.split())
    return parser


def test_the_page_shows_figures_with_intervals_and_what_is_not_proven() -> None:
    page = read(render(cases.made()))
    assert "0.5125" in page.text
    assert "0.46 to 0.565" in page.text
    assert "No measurement here proves erasure." in page.text
    assert "None: the method is approximate." in page.text
    assert cases.sha(cases.WEIGHTS) in page.text
    assert "m/1" in page.text
    assert "Deleted, and its absence checked." in page.text


def test_the_page_says_what_a_model_is_for_where_the_certificate_does() -> None:
    assert "Task" not in read(render(cases.made())).text
    assert "Taskgeneration" in read(render(cases.made_from(cases.report(task="generation")))).text


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = render(cases.made())
    assert not {"script", "img", "link", "iframe"} & set(read(page).tags)
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "@media print" in page


def test_a_certificate_without_a_model_says_that_nothing_was_measured() -> None:
    assert "Nothing was unlearned or measured for this request" in read(render(cases.made(model=None))).text


def test_markup_in_the_data_stays_text() -> None:
    entries = cases.logged()
    facts = cases.facts(entries)
    hostile = [replace(each, name="<script>alert(1)</script>") for each in facts.residuals]
    raw = cases.made(residuals=hostile)
    page = render(raw)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_an_exact_method_is_called_exact_and_an_approval_is_stated() -> None:
    entries = cases.logged()
    model = cases.facts(entries).models[0]
    exact = {**model.report, "guarantee": "exact"}
    page = read(render(cases.made(models=[replace(model, report=exact, approved_by="A. Officer")])))
    assert "Exact." in page.text
    assert "A. Officer approved it" in page.text
