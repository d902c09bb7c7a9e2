"""What a person sees of a sweep: the screen, TensorBoard, tables, its folder."""
