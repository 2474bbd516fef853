"""A photo gallery: an upload answers at once, thumbnails and ratings are made afterwards."""
