"""Three steps of a row of items at once: one item is read ahead, one is run, and one is finished behind."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Middle = TypeVar("Middle")
Result = TypeVar("Result")


def overlapped(
    indices: Sequence[int],
    read: Callable[[int], Item],
    run: Callable[[Item], Middle],
    finish: Callable[[Middle], Result],
    is_large: Callable[[Middle], bool],
    done: Callable[[], object] = lambda: None,
) -> list[Result]:
    """`finish(run(read(index)))` of every index, in their order.

    `run` is called by the thread that calls this; `read` by another, one item ahead; `finish` by a third, one item
    behind. Of items there are so three at most. What `is_large` is finished before the next one is run.

    Args:
        done: called after every result.

    Raises:
        what the first item raises that fails, in the order of the indices; the steps under way are awaited.
    """
    results: list[Result] = []
    behind: Future[Result] | None = None

    def take(finished: Future[Result] | None) -> None:
        if finished is not None:
            results.append(finished.result())
            done()

    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "finish") as finisher:
        places = iter(indices)

        def read_next() -> Future[Item] | None:
            index = next(places, None)
            return None if index is None else reader.submit(read, index)

        ahead = read_next()
        while ahead is not None:
            try:
                item, ahead = ahead.result(), read_next()
                middle = run(item)
            except Exception:
                take(behind)  # an item before this one may have failed, too
                raise
            take(behind)
            behind = finisher.submit(finish, middle)
            if is_large(middle):
                take(behind)
                behind = None
            del item, middle  # they may be large, and are needed no longer
        take(behind)
    return results
