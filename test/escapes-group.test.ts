// Every way out of a tree, tried without cgroups.

import { playMatrix } from "./escapes.js";

playMatrix("group");
