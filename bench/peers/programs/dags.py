"""The shapes as one file of dags, for systems that take their authors' files alike: ours and Airflow.

No limit is set here: each system's own defaults, or what its configuration says, are what is measured.
"""

SHAPES = '''"""Shapes of tasks which say when they ran."""
{imports}

{stamps}

@task
def work() -> None:
    began = now()
    stamp({path!r}, began)


def row(length):
    last = None
    for i in range(length):
        here = work.override(task_id=f"t{{i}}")()
        if last is not None:
            last >> here
        last = here


@dag(dag_id="one", schedule=None, is_paused_upon_creation=False)
def one():
    row(1)


@dag(dag_id="chain", schedule=None, is_paused_upon_creation=False)
def chain():
    row({chain})


@dag(dag_id="fan", schedule=None, is_paused_upon_creation=False)
def fan():
    first, last = work.override(task_id="first")(), work.override(task_id="last")()
    for i in range({fan}):
        first >> work.override(task_id=f"m{{i}}")() >> last


@dag(dag_id="runs", schedule=None, is_paused_upon_creation=False)
def runs():
    row(10)


one()
chain()
fan()
runs()
'''
