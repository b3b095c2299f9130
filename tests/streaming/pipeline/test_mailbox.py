"""The queue between two threads: order, losses and ends."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egolive.streaming import Mailbox


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@given(st.lists(st.sampled_from(["put", "get"]), max_size=60), st.integers(1, 5))
def test_live_keeps_the_newest_in_order_and_counts_every_drop(actions: list[str], capacity: int) -> None:
    box: Mailbox[int] = Mailbox(live=True, capacity=capacity)
    put = 0
    got: list[int] = []
    for action in actions:
        if action == "put":
            assert box.put(put)
            put += 1
        elif put - len(got) - box.drops.get("busy", 0) > 0:
            item = box.get(timeout=0)
            assert item is not None
            # What is handed out is among the newest `capacity` that were put.
            assert item >= put - capacity
            got.append(item)
    box.finish()
    got.extend(box)
    assert got == sorted(set(got))
    assert len(got) + box.drops.get("busy", 0) == put
    assert not put or got[-1] == put - 1


@given(st.integers(0, 200), st.integers(1, 7))
def test_recorded_loses_nothing_between_two_threads(count: int, capacity: int) -> None:
    box: Mailbox[int] = Mailbox(live=False, capacity=capacity)

    def write() -> None:
        for number in range(count):
            box.put(number)
        box.finish()

    writer = in_thread(write)
    assert list(box) == list(range(count))
    writer.join()
    assert box.drops == {}


def test_recorded_waits_for_room() -> None:
    box: Mailbox[int] = Mailbox(live=False, capacity=1)
    box.put(0)
    second_is_in = threading.Event()

    def write() -> None:
        box.put(1)
        second_is_in.set()

    writer = in_thread(write)
    assert not second_is_in.wait(0.02)
    assert box.get() == 0
    writer.join()
    assert second_is_in.is_set()


def test_an_error_reaches_the_reader_after_what_came_before_it() -> None:
    box: Mailbox[int] = Mailbox(live=False, capacity=4)
    box.put(1)
    box.fail(OSError("unplugged"))
    assert box.get() == 1
    with pytest.raises(OSError, match="unplugged"):
        box.get()


def test_the_end_is_told_again_and_again_and_nothing_follows_it() -> None:
    box: Mailbox[int] = Mailbox(live=True)
    box.finish()
    assert box.get() is None
    assert box.get() is None
    with pytest.raises(ValueError, match="after the end"):
        box.put(1)


def test_closing_wakes_a_waiting_writer_and_counts_what_nobody_read() -> None:
    box: Mailbox[int] = Mailbox(live=False, capacity=1)
    box.put(0)
    refused: list[bool] = []
    writer = in_thread(lambda: refused.append(box.put(1)))
    box.close()
    writer.join(5)
    assert refused == [False]
    assert box.drops == {"closed": 2}


def test_closing_wakes_a_waiting_reader() -> None:
    box: Mailbox[int] = Mailbox(live=True)
    read: list[int | None] = []
    reader = in_thread(lambda: read.append(box.get()))
    box.close()
    reader.join(5)
    assert read == [None]


def test_a_reader_may_set_a_limit_to_its_patience() -> None:
    box: Mailbox[int] = Mailbox(live=True)
    with pytest.raises(TimeoutError):
        box.get(timeout=0)


def test_a_mailbox_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Mailbox(live=True, capacity=0)
