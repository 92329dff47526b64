"""A job: its manifest, states, checkpoint, workflow seam, and how its clients are run."""
