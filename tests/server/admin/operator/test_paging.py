"""Pages, whatever happens between them, and whatever comes back as a token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from fleetspeak.errors import InvalidRecord
from fleetspeak.pb import operator
from fleetspeak.server.admin.operator.paging import DEFAULT_PAGE, MAX_PAGE, Page

keys = st.integers(0, 60)
changes = st.lists(st.tuples(st.booleans(), keys), max_size=5)


def page_of(there: set[int], request: operator.ListFilesRequest) -> tuple[list[int], str]:
    """As an operation makes a page of what is there, by descending key."""
    page = Page(request, int)
    before = page.key[0] if page.key else None
    found = sorted((key for key in there if before is None or key < before), reverse=True)[: page.look]
    records, token = page.cut(found, lambda key: [key])
    return list(records), token


class PagingTests(SynchronousTestCase):
    @given(st.sets(keys), st.lists(changes, max_size=70), st.integers(1, 7))
    def test_what_is_there_all_the_time_comes_exactly_once(
        self, there: set[int], meanwhile: list[list[tuple[bool, int]]], size: int
    ) -> None:
        """Whatever is added or removed between two pages."""
        always = set(there)
        request = operator.ListFilesRequest(page_size=size)
        seen: list[int] = []
        pages = 0
        while True:
            records, request.page_token = page_of(there, request)
            self.assertLessEqual(len(records), size)
            seen += records
            if not request.page_token:
                break
            for is_added, key in meanwhile[pages] if pages < len(meanwhile) else ():
                (there.add if is_added else there.discard)(key)
                always &= there
            pages += 1
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(always - set(seen), set())
        self.assertEqual(seen, sorted(seen, reverse=True))

    @given(st.text() | st.from_regex("[A-Za-z0-9_-]{0,60}", fullmatch=True))
    def test_any_token(self, token: str) -> None:
        """It is refused; one of this server's belongs to its request."""
        request = operator.ListFilesRequest(page_token=token)
        if not token:
            self.assertIsNone(Page(request, int).key)
            return
        with self.assertRaises(InvalidRecord) as caught:
            Page(request, int, str, str)
        self.assertEqual(caught.exception.field, "page_token")

    def test_sizes(self) -> None:
        for asked, size in ((0, DEFAULT_PAGE), (1, 1), (MAX_PAGE + 1, MAX_PAGE), (2**31 - 1, MAX_PAGE)):
            self.assertEqual(Page(operator.ListFilesRequest(page_size=asked), int).size, size)

    def test_another_size_is_the_same_request(self) -> None:
        _, token = page_of({1, 2, 3}, operator.ListFilesRequest(page_size=1))
        records, last = page_of({1, 2, 3}, operator.ListFilesRequest(page_size=5, page_token=token))
        self.assertEqual((records, last), ([2, 1], ""))
