"""Mirrors that break off, lie about lengths, ignore ranges and serve the wrong file."""

import pytest
from mirror import BODY, WRONG, left_over, remote, serve

from ptheta.data import download
from ptheta.data.fetch import find_or_fetch
from ptheta.engine.errors import InputError

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize("size", [len(BODY), None])
def test_resumes_and_asks_only_for_the_rest(home, size):
    with serve(BODY, ["break 20000", "break 5000"]) as mirror:
        assert find_or_fetch(remote(mirror, size=size)).read_bytes() == BODY
        assert mirror.asked == [0, 20000, 25000] and mirror.sent == [20000, 5000, 25000]
    assert left_over(home) == {"it.bin": len(BODY)}


def test_a_silent_connection_is_given_up_and_resumed(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    with serve(BODY, ["stall 8000"]) as mirror:
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY
        assert mirror.asked == [0, 8000]


def test_a_slow_mirror_is_waited_for():
    with serve(BODY, ["slow"]) as mirror:
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY and mirror.asked == [0]


def test_a_mirror_that_ignores_ranges_starts_over():
    with serve(BODY, ["break 20000", "ignore range"]) as mirror:
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY
        assert mirror.asked == [0, 20000] and mirror.sent == [20000, len(BODY)]


def test_another_range_than_asked_for_starts_over():
    with serve(BODY, ["break 20000", "other range"]) as mirror:
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY and mirror.asked == [0, 20000, 0]


@pytest.mark.parametrize("size", [len(BODY), None])
@pytest.mark.parametrize("fault", ["more 1000", "more 1"])
def test_an_announced_length_above_the_true_one_is_no_obstacle(size, fault):
    with serve(BODY, always=fault) as mirror:
        assert find_or_fetch(remote(mirror, size=size)).read_bytes() == BODY and mirror.asked == [0]


def test_an_announced_length_below_the_true_one_is_asked_on():
    with serve(BODY, ["less 1000"]) as mirror:
        assert find_or_fetch(remote(mirror)).read_bytes() == BODY and mirror.asked == [0, 49000]


def test_an_announced_length_below_the_true_one_is_noticed_without_a_size(home):
    with serve(BODY, ["less 1000"]) as mirror, pytest.raises(InputError, match="another file"):
        find_or_fetch(remote(mirror, size=None))
    assert left_over(home) == {}


def test_mirrors_in_turn_until_one_has_it(home):
    with serve(b"", always="status 404") as none, serve(WRONG) as wrong, serve(BODY) as right, serve(BODY) as spare:
        assert find_or_fetch(remote(none, wrong, right, spare)).read_bytes() == BODY
        assert [len(m.asked) for m in (none, wrong, right, spare)] == [1, 1, 1, 0]
        assert right.asked == [0], "nothing of the wrong file may be built on"
    assert left_over(home) == {"it.bin": len(BODY)}


def test_the_next_mirror_goes_on_where_the_last_broke():
    with serve(BODY, ["break 30000"], always="status 503") as first, serve(BODY) as second:
        assert find_or_fetch(remote(first, second)).read_bytes() == BODY and second.asked == [30000]


def test_a_beginning_of_another_file_is_dropped_and_the_mirror_asked_anew():
    with serve(WRONG, ["break 30000"], always="status 503") as first, serve(BODY) as second:
        assert find_or_fetch(remote(first, second)).read_bytes() == BODY and second.asked == [30000, 0]


@pytest.mark.parametrize("served", [WRONG, WRONG[:3000], WRONG + WRONG, b"<html>please log in</html>", b""])
def test_a_wrong_file_never_gets_the_name(home, served):
    with serve(served) as mirror, pytest.raises(InputError, match="another file"):
        find_or_fetch(remote(mirror))
    assert left_over(home) == {}


def test_an_endless_answer_ends(home):
    with serve(WRONG * 100) as mirror, pytest.raises(InputError, match="another file"):
        find_or_fetch(remote(mirror))
    assert left_over(home) == {}


def test_a_redirection_leads_to_http_only():
    with serve(BODY) as right, serve(b"", [f"redirect {right.url}it.bin"]) as first:
        assert find_or_fetch(remote(first)).read_bytes() == BODY
    for place, reason in (("file:///etc/hostname", "not allowed"), ("ftp://127.0.0.1/it.bin", "unknown url type: ftp")):
        with serve(b"", always=f"redirect {place}") as first, pytest.raises(InputError, match=reason):
            find_or_fetch(remote(first, name="other.bin"))
