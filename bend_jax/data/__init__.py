"""Images: where they come from, how they are split and augmented, and other images to try a network on."""
