"""What `search:` of a sweep file may say: a space, a sampler, objectives. Knobs that are proposed instead of listed."""
