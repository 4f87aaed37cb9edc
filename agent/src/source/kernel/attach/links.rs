//! What is attached to one interface: putting it there, and taking it away so that nothing is left.

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use nix::net::if_::if_nametoindex;
use wstap_common::{flow::Vantage, globals};

use super::{
    super::{
        clsact::Survey,
        inner::lock,
        interfaces::Framing,
        netlink::{Connection, Link, Side},
        one_line,
    },
    Attacher, Method, Programs,
};

/// What is attached to an interface.
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) links: Vec<SchedClassifierLink>,
    qdisc_is_ours: bool,
}

impl Attacher {
    /// Removes what a predecessor that was killed has left behind, where filters are not looked at each
    /// time that one of them is added.
    pub(super) fn remove_stale(&mut self) {
        let Self {
            pending,
            selection,
            netlink,
            ..
        } = self;
        for link in pending
            .values()
            .filter(|link| selection.matches(&link.name))
        {
            match survey(netlink, link) {
                Ok(survey) if survey.qdisc_is_ours && survey.is_empty() => {
                    remove_qdisc(netlink, link.index, &link.name);
                }
                Ok(_) => {}
                Err(error) if !is_still(link) => log::debug!("{}: {error}", link.name),
                Err(error) => log::warn!("{}: {error}", link.name),
            }
        }
    }

    pub(super) fn attach(&mut self, link: &Link) {
        match self.try_attach(link) {
            Ok(attached) => {
                match &self.place {
                    None => log::debug!("attached to {}", link.name),
                    Some(place) => log::debug!("attached to {} in {}", link.name, place.label),
                }
                self.refused.remove(&link.index);
                self.interfaces.insert(link.index, attached);
            }
            // It was deleted or renamed meanwhile; the kernel tells that too.
            Err(reason) if !is_still(link) => log::debug!("{}: {reason}", link.name),
            Err(reason) => {
                if self.refused.get(&link.index) != Some(&reason) {
                    log::warn!("attaching to {}: {reason}", link.name);
                    self.refused.insert(link.index, reason);
                }
            }
        }
    }

    fn try_attach(&mut self, link: &Link) -> Result<Attached, String> {
        let Some(framing) = Framing::of(link.hardware) else {
            return Err(format!(
                "packets of its hardware type {} begin in a way that is not followed; leave it out \
                 with --exclude-interface",
                link.hardware
            ));
        };
        // Those of an interface elsewhere need not be kept: what is attached stays loaded.
        let mut own = self.programs_of(link.index, framing)?;
        if !is_still(link) {
            return Err("it was renamed".to_owned());
        }
        let made = self.method == Method::Clsact
            && self.netlink.add_clsact(link.index).map_err(|error| {
                format!("adding a clsact qdisc: {error}; is the kernel module sch_ingress there?")
            })?;
        let mut attached = Attached {
            name: link.name.clone(),
            links: Vec::with_capacity(Side::BOTH.len()),
            qdisc_is_ours: made,
        };
        match self.attach_sides(link, framing, own.as_mut(), &mut attached) {
            Ok(()) => Ok(attached),
            Err(reason) => {
                take_away(&mut self.netlink, link.index, attached);
                Err(reason)
            }
        }
    }

    /// Has the programs for an interface ready: its own, where those of the object are not for it.
    fn programs_of(&mut self, index: u32, framing: Framing) -> Result<Option<Ebpf>, String> {
        let vantage = Vantage {
            interface: self.number(index),
            scope: self.scope(),
        };
        match &mut self.programs {
            Programs::Own(_) => Ok(None),
            Programs::Inner(inner) => lock(inner).load(vantage, framing).map(Some),
        }
        .map_err(|error| error.to_string())
    }

    fn attach_sides(
        &mut self,
        link: &Link,
        framing: Framing,
        mut own: Option<&mut Ebpf>,
        attached: &mut Attached,
    ) -> Result<(), String> {
        let survey = match self.method {
            Method::Tcx => Survey::default(),
            Method::Clsact => survey(&mut self.netlink, link)?,
        };
        attached.qdisc_is_ours |= survey.qdisc_is_ours;
        let names = globals::PROGRAMS[framing as usize];
        for (side, name) in Side::BOTH.into_iter().zip(names) {
            let options = match &self.claim {
                None => TcAttachOptions::TcxOrder(LinkOrder::first()),
                Some(claim) => {
                    let priority = survey.priority(side);
                    if priority.behind_others {
                        log::warn!(
                            "{}: other filters have the first places; what they drop or redirect \
                             is not seen",
                            link.name
                        );
                    }
                    TcAttachOptions::Netlink(NlOptions {
                        priority: priority.value,
                        handle: TcHandle::from(claim.handle(attached.qdisc_is_ours)),
                        classid: None,
                    })
                }
            };
            let link = self
                .attach_program(own.as_deref_mut(), name, &link.name, side, options)
                .map_err(|error| one_line(&error))?;
            attached.links.push(link);
        }
        Ok(())
    }

    fn attach_program(
        &mut self,
        own: Option<&mut Ebpf>,
        name: &'static str,
        interface: &str,
        side: Side,
        options: TcAttachOptions,
    ) -> Result<SchedClassifierLink, ProgramError> {
        let ebpf = match (own, &mut self.programs) {
            (Some(ebpf), _) => ebpf,
            (None, Programs::Own(ebpf)) => ebpf,
            (None, Programs::Inner(_)) => return Err(ProgramError::NotLoaded),
        };
        let program: &mut SchedClassifier = match ebpf.program_mut(name) {
            Some(program) => program.try_into()?,
            None => return Err(ProgramError::NotLoaded),
        };
        let side = match side {
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        };
        let id = program.attach_with_options(interface, side, options)?;
        program.take_link(id)
    }

    pub(super) fn detach(&mut self, index: u32) {
        if let Some(attached) = self.interfaces.remove(&index) {
            take_away(&mut self.netlink, index, attached);
        }
    }
}

/// Looks at the filters of an interface, and removes those of an agent that was killed.
fn survey(netlink: &mut Connection, link: &Link) -> Result<Survey, String> {
    let survey = Survey::take(netlink, link.index)
        .map_err(|error| format!("looking for filters of a predecessor: {error}"))?;
    if survey.removed > 0 {
        log::info!("{}: removed filters of an agent that was killed", link.name);
    }
    Ok(survey)
}

/// Detaches, and removes the qdisc if it is ours and nobody else uses it.
pub(super) fn take_away(netlink: &mut Connection, index: u32, attached: Attached) {
    drop(attached.links);
    if attached.qdisc_is_ours {
        let is_empty = |side| {
            netlink
                .filters(index, side)
                .is_ok_and(|rest| rest.is_empty())
        };
        if Side::BOTH.into_iter().all(is_empty) {
            remove_qdisc(netlink, index, &attached.name);
        }
    }
}

fn remove_qdisc(netlink: &mut Connection, index: u32, name: &str) {
    match netlink.delete_clsact(index) {
        Ok(()) => log::debug!("{name}: removed the clsact qdisc"),
        // Gone with the interface, or by another's hand.
        Err(error) => log::debug!("{name}: removing the clsact qdisc: {error}"),
    }
}

/// Whether the name still means the same interface. Programs are attached by name.
fn is_still(link: &Link) -> bool {
    if_nametoindex(link.name.as_str()).is_ok_and(|index| index == link.index)
}
