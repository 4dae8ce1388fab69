// What the owner may do where the server was started with --write.

import { root, send } from "./api.js";
import { announce, h, put } from "./dom.js";

export function owner(state) {
  const user = h("input", { id: "share", maxlength: 200, required: true, autocomplete: "off" });
  const told = h("p", { class: "note", role: "status" });
  const share = h("form", { class: "filter" }, h("label", { for: "share" }, "Let this user read it"), user, h("button", {}, "Share"));
  const again = h("input", { id: "again", maxlength: 200, autocomplete: "off" });
  const gone = h("button", { class: "danger", disabled: true }, "Delete");
  const remove = h("form", { class: "filter" }, h("label", { for: "again" }, "Delete all of it: type its name once more"), again, gone);
  const element = h("section", { hidden: true }, h("h2", {}, "Owner"), share, remove, told);

  again.addEventListener("input", () => { gone.disabled = again.value !== state.header?.name; });
  share.addEventListener("submit", (event) => {
    event.preventDefault();
    act(send("POST", `api/studies/${state.id}/shares`, { name: user.value }), () => {
      put(told, `${user.value} may read it now.`);
      user.value = "";
    });
  });
  remove.addEventListener("submit", (event) => {
    event.preventDefault();
    act(send("DELETE", `api/studies/${state.id}`, { name: again.value }), () => { location.href = root.href; });
  });

  async function act(sent, done) {
    try {
      await sent;
      done();
    } catch (error) {
      put(told, error.message);
      announce(error.message);
    }
  }
  return { element, update: (data) => { element.hidden = data.read_only || !data.mine; } };
}
