"""The main job from a checkpoint to the report page."""
