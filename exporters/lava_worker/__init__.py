"""The worker process of the Lava backends: the only place where Lava is imported."""
