// Each page says which view it is.

import { compare } from "./compare.js";
import { studies } from "./studies.js";
import { study } from "./study.js";

const views = { studies, study, compare };
views[document.body.dataset.view](document.getElementById("content"));
