"""What an ensemble says of images, and how good, calibrated and sure of itself it is."""
