"""Work on the workers of a Dask scheduler, which may come and go.

Dask carries the data and knows who is there; who does what is decided here, since Dask
counts the death of a worker against all that it was given. A worker has one task at a time,
so that its death is that task's alone: it is tried again, elsewhere, a few times, and then
fails by itself with that cause. Small items share a task, and are parted where it dies.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import itertools
import math
import pickle
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from kythera import errors
from kythera.runs.executors import work as travelling
from kythera.runs.executors.base import AbstractExecutor
from kythera.runs.executors.places import Place

LOOK = 0.25  # seconds between two looks at who is there, or
PART = 10  # so many times what the last one took, where that is more, up to
RARELY = 5.0
ANSWER = 20.0  # seconds in which a question to the scheduler must be answered,
SILENT = 60.0  # and after which one that answers none is lost: it may be busy
MEETINGS = 32  # at a time: a thousand newcomers would take all connections
QUIET = 30.0  # seconds without a worker, after which a warning says so
TASK = 0.1  # seconds of work that small items are put together to


@dataclasses.dataclass(eq=False)
class _Job:
    """One item: its work, where the result goes, and the workers that died of it."""

    packed: travelling.Packed
    item: bytes
    result: "concurrent.futures.Future[Any]"
    deaths: list[str] = dataclasses.field(default_factory=list)
    alone: bool = False


@dataclasses.dataclass(eq=False)
class _Worker:
    """One process that can work, and the works that it was given."""

    address: str
    gone: asyncio.Event
    given: set[str] = dataclasses.field(default_factory=set)


class DaskExecutor(AbstractExecutor):
    """Workers of a Dask scheduler: processes here, jobs of a batch system, anything.

    Args:
        text: what it was made from.
        place: where scheduler and workers are.
        attempts: workers that may die of an item before it fails.
        wait: seconds without any worker before everything fails.
    """

    def __init__(
        self, text: str, place: Place, *, attempts: int = 5, wait: float = 600.0
    ):
        super().__init__(text)
        self._place, self._attempts, self._wait = place, attempts, wait
        self._client: Any = None
        self._workers: dict[str, _Worker] = {}
        self._refused: dict[str, str] = {}
        self._meeting: set[str] = set()
        self._doors = asyncio.Semaphore(MEETINGS)
        self._idle: collections.deque[_Worker] = collections.deque()
        self._jobs: collections.deque[_Job] = collections.deque()
        self._busy: set[_Job] = set()
        self._tasks: set[asyncio.Task] = set()
        self._packed: collections.OrderedDict[Any, tuple[Any, travelling.Packed]]
        self._packed = collections.OrderedDict()
        self._seconds: dict[str, float] = {}  # of an item, by work
        self._cpu, self._names = 0.0, itertools.count()
        self._empty_since, self._warned = time.monotonic(), False
        self._heard = time.monotonic()
        self._failure: BaseException | None = None

    @property
    def workers(self) -> int:
        """How many are there; before the first has come, how many were asked for."""
        return len(self._workers) or self._place.size

    @property
    def cpu_seconds(self) -> float:
        """CPU time that tasks took on workers; not what died with them."""
        return self._cpu

    def __enter__(self) -> Self:
        """Connect; workers may come later.

        Raises:
            ClusterError: there is no scheduler, or no worker here can start.
            UnsupportedError: all workers that are there have other versions.
        """
        self._client = self._place.connect()
        self._client._timeout = SILENT  # in which a scheduler may come back
        self._heard = time.monotonic()
        try:
            self._call(self._begin(), 2 * ANSWER)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        """Drop what is under way, and end the workers that were started for this."""
        if self._client is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is cut off complains
            try:
                self._call(self._end(), 5.0)
            except (TimeoutError, errors.ClusterError):
                pass
            self._place.close(self._client)
        self._client = None

    def _call(self, coroutine: Any, seconds: float) -> Any:
        """Run in the client's loop, from outside of it."""
        loop = self._client.loop.asyncio_loop
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(seconds)

    def __call__(
        self, work: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[Any]:
        """See the base class."""
        return _Results(self._send(work, list(items)))

    def submit(
        self, work: Callable[[Any], Any], item: Any
    ) -> "concurrent.futures.Future[Any]":
        """See the base class."""
        return self._send(work, [item])[0]

    def _send(
        self, work: Callable[[Any], Any], items: list[Any]
    ) -> "list[concurrent.futures.Future[Any]]":
        if self._client is None:
            raise errors.InputError(
                f"The executor {self.text!r} works between `with` and its end, but is "
                "used outside. Write `with executors.make(...) as executor:`."
            )
        packed = self._pack(work)
        jobs = [
            _Job(packed, travelling.dumps(item), concurrent.futures.Future())
            for item in items
        ]
        self._client.loop.asyncio_loop.call_soon_threadsafe(self._take_in, jobs)
        return [job.result for job in jobs]

    def _pack(self, work: Any) -> travelling.Packed:
        """Pickled once: a `partial` is new at each call, what it holds is not."""
        arguments = getattr(work, "args", ()), getattr(work, "keywords", {})
        parts = [getattr(work, "func", work), *arguments[0], *arguments[1].values()]
        name = (*map(id, parts), *arguments[1])
        if name not in self._packed:
            self._packed[name] = work, travelling.pack(work)  # kept alive: so are ids
            while len(self._packed) > travelling.KEPT:
                self._packed.popitem(last=False)
        self._packed.move_to_end(name)
        return self._packed[name][1]

    # What follows runs in the client's loop, where nothing needs a lock.

    async def _begin(self) -> None:
        await self._look()
        meetings = set(self._tasks)
        while meetings and not self._workers:
            met, meetings = await asyncio.wait(
                meetings, timeout=ANSWER, return_when=asyncio.FIRST_COMPLETED
            )
            if not met:
                break
        if self._refused and not self._workers:
            raise errors.UnsupportedError(next(iter(self._refused.values())))
        self._spawn(self._watch())

    async def _end(self) -> None:
        for job in self._jobs:
            job.result.cancel()
        self._fail(
            errors.ClusterError(
                f"The executor {self.text!r} was closed while this was under way."
            )
        )
        tasks = [t for t in self._tasks if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, coroutine: Any) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self) -> None:
        """Look who is there until the end; where that fails, everything does."""
        try:
            while True:
                began = time.monotonic()
                await self._look()
                took = time.monotonic() - began
                await asyncio.sleep(min(max(LOOK, PART * took), RARELY))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        for job in (*self._jobs, *self._busy):
            if not job.result.done():
                job.result.set_exception(error)
        self._jobs.clear()

    async def _look(self) -> None:
        """Who has come, who has gone, and whether anybody is there."""
        self._place.tend(bool(self._workers))
        try:
            if self._client.scheduler is None:
                raise OSError("the connection was lost")
            there = await asyncio.wait_for(self._client.scheduler.ncores(), ANSWER)
        except (OSError, TimeoutError) as error:
            if time.monotonic() - self._heard < SILENT:
                return
            raise errors.ClusterError(
                f"The scheduler of {self.text!r} must answer within {SILENT:.0f} s, but "
                f"does not ({type(error).__name__}: {error}). Start it again, and go on "
                "with the study: what was finished is kept."
            ) from error
        self._heard = time.monotonic()
        for address in self._workers.keys() - there.keys():
            self._workers.pop(address).gone.set()
        for address in self._refused.keys() - there.keys():
            del self._refused[address]
        for address in there.keys() - self._workers.keys() - self._refused.keys():
            if address not in self._meeting:
                self._meeting.add(address)
                self._spawn(self._meet(address))
        self._check_empty()

    def _check_empty(self) -> None:
        now = time.monotonic()
        if self._workers or not (self._jobs or self._busy):
            self._empty_since, self._warned = now, False
            return
        empty = now - self._empty_since
        refusal = "".join(f" {text}" for text in [*self._refused.values()][-1:])
        if empty > self._wait:
            raise errors.ClusterError(
                f"There must be a worker within {self._wait:.0f} s, but {self.text!r} has "
                "none. Look at its jobs and their logs, or wait longer (wait=SECONDS); "
                f"the study can go on: what was finished is kept.{refusal}"
            )
        if empty > QUIET and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.text!r} has no worker for {empty:.0f} s; waiting for one up to "
                f"{self._wait:.0f} s{refusal and '.' + refusal}",
                stacklevel=2,
            )

    async def _meet(self, address: str) -> None:
        """Take a new worker in if it has our versions."""
        try:
            async with self._doors:
                call = self._client._run(
                    travelling.versions, workers=[address], on_error="return"
                )
                theirs = (await asyncio.wait_for(call, ANSWER)).get(address)
        except (OSError, TimeoutError):
            theirs = None  # it has gone, or is not yet ready: the next look tells
        finally:
            self._meeting.discard(address)
        if theirs is None or isinstance(theirs, OSError):
            return
        refusal = travelling.refusal(address, theirs)
        if refusal:
            self._refused[address] = refusal
            if self._workers or self._jobs:
                warnings.warn(refusal, stacklevel=2)
            return
        self._workers[address] = worker = _Worker(address, asyncio.Event())
        self._idle.append(worker)
        self._assign()

    def _take_in(self, jobs: list[_Job]) -> None:
        self._jobs.extend(jobs)
        if self._failure is not None:
            self._fail(self._failure)
        self._assign()

    def _assign(self) -> None:
        """Give tasks to workers as long as there are both."""
        while self._jobs and self._idle:
            worker = self._idle.popleft()
            if worker.gone.is_set():
                continue
            task = self._next_task()
            if task:
                self._spawn(self._do(worker, task))
            else:
                self._idle.appendleft(worker)

    def _next_task(self) -> list[_Job]:
        """The next job, with others of its work where they are small."""
        task: list[_Job] = []
        share = 1
        while self._jobs and len(task) < share:
            if task and (
                self._jobs[0].packed is not task[0].packed or self._jobs[0].alone
            ):
                break
            job = self._jobs.popleft()
            waits = job.result.running() or job.result.set_running_or_notify_cancel()
            if waits:
                task.append(job)
                share = 1 if job.alone else self._share(job.packed.digest)
        return task

    def _share(self, digest: str) -> int:
        """Items of a task: a tenth of a second of work, as long as all get some."""
        fair = math.ceil(len(self._jobs) / (2 * max(len(self._workers), 1)))
        seconds = self._seconds.get(digest)
        return 1 if seconds is None else max(1, min(fair, int(TASK / seconds)))

    async def _do(self, worker: _Worker, task: list[_Job]) -> None:
        """One task on one worker, to its end or the worker's."""
        self._busy.update(task)
        try:
            answer = await self._answer(worker, task)
            if answer is None:
                self._died(worker, task)
                return
            self._cpu += answer.cpu_seconds
            self._seconds[task[0].packed.digest] = answer.seconds / len(task) + 1e-6
            for job, (good, found) in zip(task, answer.outcomes, strict=True):
                if job.result.done():  # everything failed meanwhile
                    continue
                if good:
                    try:
                        job.result.set_result(pickle.loads(found))
                    except Exception as error:  # no fault of its neighbours
                        job.result.set_exception(error)
                else:
                    error, error.__cause__ = found[0], found[1]
                    job.result.set_exception(error)
        except Exception as error:
            for job in task:
                if not job.result.done():
                    job.result.set_exception(error)
        finally:
            self._busy.difference_update(task)
            self._idle.append(worker)
            self._assign()

    async def _answer(
        self, worker: _Worker, task: list[_Job]
    ) -> travelling.Answer | None:
        """What the worker says; None where it has gone."""
        packed = task[0].packed
        items = pickle.dumps([job.item for job in task], protocol=5)
        found = travelling.MISSING
        while found == travelling.MISSING:
            payload = b"" if packed.digest in worker.given else packed.payload
            found = await self._ask(worker, packed.digest, payload, items)
            if found is None:
                return None
            if found == travelling.MISSING:
                worker.given.discard(packed.digest)
            else:
                worker.given.add(packed.digest)
        return pickle.loads(found)

    async def _ask(
        self, worker: _Worker, digest: str, payload: bytes, items: bytes
    ) -> bytes | None:
        """The answer's bytes; None where the worker has gone."""
        future = self._client.submit(
            travelling.run,
            digest,
            payload,
            items,
            key=f"kythera-{self._client.id}-{next(self._names)}",
            workers=[worker.address],
            allow_other_workers=False,
            pure=False,
        )
        gone = asyncio.ensure_future(worker.gone.wait())
        try:
            while True:
                # Dask fetches several results in one go, which whoever began it must not
                # cut off; errors="raise" would leave errors behind that nobody looks at.
                fetched = self._spawn(self._client._gather([future], errors="skip"))
                await asyncio.wait((fetched, gone), return_when=asyncio.FIRST_COMPLETED)
                if not fetched.done():
                    return None
                if not _hindered(fetched):
                    break
                if self._failure is not None:
                    raise self._failure
                await asyncio.sleep(LOOK)
            if found := fetched.result():
                return found[0]
            await _check_lost(future)
            return None
        finally:
            gone.cancel()
            future.release()  # which ends what still waits for it

    def _died(self, worker: _Worker, task: list[_Job]) -> None:
        """Try again what a worker took with it; of several items, each by itself."""
        worker.gone.set()
        self._workers.pop(worker.address, None)
        for job in task:
            if job.result.done():  # everything failed meanwhile
                continue
            if len(task) == 1:
                job.deaths.append(worker.address)
            job.alone = True
            if len(job.deaths) < self._attempts:
                self._jobs.append(job)
            else:
                job.result.set_exception(
                    errors.SimulationError(
                        f"The worker died each of the {len(job.deaths)} times that this "
                        f"was simulated, the last one on {worker.address}. Mend the "
                        "simulator (a crash, too little memory), or allow more deaths "
                        "where machines vanish often (attempts=NUMBER)."
                    )
                )


def _hindered(fetched: asyncio.Task) -> bool:
    """Whether a result is there that a busy scheduler or network did not hand over."""
    if fetched.cancelled():
        return True
    # A client that looks for its lost scheduler has none, not even one to complain about.
    return isinstance(fetched.exception(), OSError | AttributeError)


async def _check_lost(future: Any) -> None:
    """Raise what failed, unless it is the death of a worker that Dask has seen first."""
    from distributed import KilledWorker

    error = await future._exception()
    if error is not None and not isinstance(error, KilledWorker):
        raise error


class _Results(Iterator[Any]):
    """Results in order; an error is raised at its turn, and the next ones follow."""

    def __init__(self, futures: "list[concurrent.futures.Future[Any]]"):
        self._futures = collections.deque(futures)

    def __next__(self) -> Any:
        if not self._futures:
            raise StopIteration
        try:
            return self._futures.popleft().result()
        except Exception:
            raise
        except BaseException:  # whoever waits is leaving
            self.close()
            raise

    def close(self) -> None:
        """Nobody waits for the rest."""
        for future in self._futures:
            future.cancel()
        self._futures.clear()
