"""Fan-out and a reducer: count the primes below a million in parallel processes, and compare with the known number."""

from datetime import timedelta

from scheduler import dag, get_context, task

PARTS = 8
KNOWN = {10_000: 1_229, 100_000: 9_592, 1_000_000: 78_498}


@dag(schedule=timedelta(minutes=1), params={"below": 1_000_000}, max_active_runs=1, tags=["example"])
def prime_numbers():
    """How many primes are there below a million?"""

    @task
    def count_primes(part: int) -> int:
        below = get_context().params["below"]
        start, end = below * part // PARTS, below * (part + 1) // PARTS
        is_prime = bytearray([1]) * (end - start)
        for number in range(start, min(2, end)):  # neither 0 nor 1 is one
            is_prime[number - start] = 0
        for divisor in range(2, int(end**0.5) + 1):
            first = max(divisor * divisor, -(-start // divisor) * divisor)
            is_prime[first - start :: divisor] = bytes(len(range(first - start, end - start, divisor)))
        found = sum(is_prime)
        print(f"{found} primes from {start} to {end - 1}")
        return found

    @task(retries=0)
    def add(counts: list) -> int:
        below = get_context().params["below"]
        total = sum(counts)
        print(f"{total} primes below {below}")
        if KNOWN.get(below, total) != total:
            raise ValueError(f"mathematicians say {KNOWN[below]}")
        return total

    add([count_primes(part) for part in range(PARTS)])


prime_numbers()
