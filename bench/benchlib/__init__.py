# SPDX-License-Identifier: MIT
"""What bench/run is made of: the parts it starts, the measurements, the report."""
