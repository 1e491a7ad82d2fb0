"""Pictures of images, scenes, maps and tokens."""
