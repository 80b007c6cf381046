"""Run attempts somewhere and report what became of them.

`base` says what an executor is, `local` is the daemon's side of the local one. The rest is the worker process
and what it forks:

    daemon -(unix socket)- worker --> zygote --per DAG file--> warm parent --per attempt--> task process

* `worker`, `attempts`, `parents`, `parent`, `cradle`, `readiness`, `link`, `logfile`, `spool`: the worker process
  (trio)
* `zygote`, `warm`: plain single-threaded processes that do nothing but fork
* `runner`, `results`: inside the task process, around the user's callable

What holds, whatever dies, is written in README.md beside this file.
"""
