"""Who does the units: this process, processes beside it, or Ray's workers. All give outcomes as they come."""
