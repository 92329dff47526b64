"""What a run tells about itself: events, metrics, tracking.

Here: the events of a run and everything that only reads them. Not here: who
makes them (the job actor) and how they look on a terminal (recipes.console).
"""
