"""One patient's segmentation -> a page to look at, on paper too, and meshes to take along."""
