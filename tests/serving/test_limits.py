"""Slots and their queue: never more than so many, in order, and nothing is lost by leaving."""

import asyncio

import pytest

from forethought.serving.http.limits import QueueFullError, Slots


def settle():
    """Let every task that can go on do so."""
    return asyncio.sleep(0.01)


def test_so_many_run_the_others_wait_in_order():
    async def check():
        slots = Slots(slots=2, queue=3)
        order, release = [], asyncio.Event()

        async def work(name):
            with slots.admit(1) as admission:
                async with admission.slot():
                    order.append(name)
                    await release.wait()

        tasks = [asyncio.create_task(work(name)) for name in range(5)]
        await settle()
        assert order == [0, 1]
        assert (slots.running, slots.waiting) == (2, 3)
        with pytest.raises(QueueFullError):
            slots.admit(1)
        release.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]
        assert (slots.running, slots.waiting) == (0, 0)

    asyncio.run(check())


def test_leaving_the_queue_or_a_slot_frees_it():
    async def check():
        slots = Slots(slots=1, queue=2)
        entered = []

        async def work(name):
            with slots.admit(1) as admission:
                async with admission.slot():
                    entered.append(name)
                    await asyncio.sleep(60)

        first, second, third = (asyncio.create_task(work(name)) for name in range(3))
        await settle()
        second.cancel()
        await settle()
        assert (slots.running, slots.waiting) == (1, 1)
        first.cancel()
        await settle()
        assert entered == [0, 2]
        # Cancelled in the moment in which it is given the slot.
        fourth = asyncio.create_task(work(3))
        await settle()
        third.cancel()
        fourth.cancel()
        await settle()
        assert (slots.running, slots.waiting) == (0, 0)
        last = asyncio.create_task(work(4))
        await settle()
        assert entered[-1] == 4
        last.cancel()

    asyncio.run(check())


def test_a_request_gets_all_its_places_or_none():
    async def check():
        slots = Slots(slots=2, queue=1)
        with pytest.raises(QueueFullError):
            slots.admit(4)
        with slots.admit(3) as admission:
            assert slots.waiting == 3
            with pytest.raises(QueueFullError):
                slots.admit(1)
            async with admission.slot():
                assert (slots.running, slots.waiting) == (1, 2)
        assert (slots.running, slots.waiting) == (0, 0)

    asyncio.run(check())


def test_more_answers_than_slots_in_one_request_come_one_after_the_other():
    async def check():
        slots = Slots(slots=1, queue=5)
        most = 0

        async def work(admission):
            nonlocal most
            async with admission.slot():
                most = max(most, slots.running)
                await asyncio.sleep(0)

        with slots.admit(6) as admission:
            await asyncio.gather(*(work(admission) for _ in range(6)))
        assert most == 1

    asyncio.run(check())


def test_the_time_to_come_again_follows_how_long_answers_take():
    async def check():
        slots = Slots(slots=1, queue=0)

        async def asked():
            with slots.admit(1) as admission:
                async with admission.slot():
                    with pytest.raises(QueueFullError) as full:
                        slots.admit(1)
                    return full.value.retry_after

        assert await asked() == 1
        slots._mean_seconds = 12.2
        assert await asked() == 13
        slots._mean_seconds = 500
        assert await asked() == 60

    asyncio.run(check())


def test_many_that_come_and_go_leave_nothing_behind():
    async def check():
        slots = Slots(slots=3, queue=1000)

        async def work(number):
            with slots.admit(1 + number % 3) as admission:
                async with admission.slot():
                    await asyncio.sleep(0.001 * (number % 4))

        tasks = [asyncio.create_task(work(number)) for number in range(300)]
        for number, task in enumerate(tasks):
            if number % 5 == 0:
                await asyncio.sleep(0)
            if number % 3 == 0:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (slots.running, slots.waiting) == (0, 0)
        with slots.admit(3) as admission:
            async with admission.slot(), admission.slot(), admission.slot():
                assert slots.running == 3

    asyncio.run(check())
