"""The data sets that a sweep file may name: published ones, and folders of images."""
