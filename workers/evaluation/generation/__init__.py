"""What is measured of a model that makes images, and the report of it."""
