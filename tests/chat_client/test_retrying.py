import pytest

from forethought.chat_client.retrying import seconds_to_pause


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (100_000, 60)]
)
def test_pauses_double_up_to_a_minute_with_full_jitter(attempt, longest):
    pauses = [seconds_to_pause(attempt, 0.5, None) for _ in range(1000)]
    assert 0 <= min(pauses) < 0.02 * longest
    assert 0.98 * longest < max(pauses) <= longest
    assert 0.4 * longest < sum(pauses) / 1000 < 0.6 * longest


def test_a_wish_of_the_server_is_exceeded_by_a_little():
    pauses = [seconds_to_pause(1, 0.5, 7.0) for _ in range(1000)]
    assert 7 <= min(pauses) < max(pauses) <= 7.5
    assert seconds_to_pause(9, 0.5, 1e9) <= 300.5
