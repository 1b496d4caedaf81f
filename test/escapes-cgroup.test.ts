import { playMatrix } from "./escapes.js";

playMatrix("cgroup");
