"""Kills, outages, full disks, damaged files and odd command lines: what is lost."""
