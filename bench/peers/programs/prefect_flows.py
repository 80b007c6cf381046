"""Prefect: four flows, served by one process as is documented. Environment: BENCH_STAMPS, BENCH_CHAIN, BENCH_FAN."""

import os

from prefect import flow, serve, task
from stamps import now, stamp

STAMPS, CHAIN, FAN = os.environ["BENCH_STAMPS"], int(os.environ["BENCH_CHAIN"]), int(os.environ["BENCH_FAN"])


@task
def work() -> None:
    began = now()
    stamp(STAMPS, began)


def row(length: int) -> None:
    for _ in range(length):
        work()


@flow
def one() -> None:
    row(1)


@flow
def chain() -> None:
    row(CHAIN)


@flow
def fan() -> None:
    first = work.submit()
    middle = [work.submit(wait_for=[first]) for _ in range(FAN)]
    work.submit(wait_for=middle).result()


@flow
def runs() -> None:
    row(10)


if __name__ == "__main__":
    serve(*(each.to_deployment("bench") for each in (one, chain, fan, runs)))
