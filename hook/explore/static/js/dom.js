// Elements of the page.

export const $ = (id) => document.getElementById(id);

/** Make an element; properties are set, `data` and `aria` become attributes, children appended. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name === "aria") for (const [k, v] of Object.entries(value)) element.setAttribute(`aria-${k}`, v);
    else if (name === "role") element.setAttribute("role", value);
    else if (name === "color") element.style.setProperty("--color", value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

let timer = 0;

/** Show what went wrong for some seconds, with its remedy. */
export function tell(error) {
  const box = $("message");
  const { message, remedy } = error;
  box.replaceChildren(make("p", {}, message), remedy ? make("p", { className: "note" }, remedy) : "");
  box.append(make("button", { type: "button", onclick: () => (box.hidden = true) }, "Close"));
  box.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (box.hidden = true), 12000);
}

/** Run an action of the user; its errors are shown. */
export const attempt = (action) => async (...given) => {
  try {
    return await action(...given);
  } catch (error) {
    tell(error);
    if (!error.expected && !error.remedy) console.warn(error);
  }
};
