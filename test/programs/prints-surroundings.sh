#!/bin/sh
# Where it runs and with which variables.
pwd
exec env
