"""Boards: nodes that hold only the models delivered to them.

`core` decides (deliveries, senses, what people want and what boards say), `runner` is its shell,
`service` what the HTTP API may ask.
"""
